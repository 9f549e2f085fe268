"""What a training saves of itself and goes on from: its parts, its place, and when it is time to save again."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import DivergedError, InputError
from ssl_transfer.engine.runs.checkpoint_files import StateFiles
from ssl_transfer.engine.tracking import tracker

from .epoch_means import Tally
from .objective import Objective

SHARE = 0.05
"""Of the time, that may go into saving states."""
REMEDY = (
    "Look at the images, or start over (--fresh, or another --output) with a lower learning rate, a longer warm-up or "
    "--optimizer.clip-norm 1."
)


class Stateful(Protocol):
    """What a state is made of."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and containers of them."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Go on from what `state_dict` gave."""


class State:
    """Of one training.

    Args:
        objective: of it.
        parts: each by its name in the file.
        tally: of the epoch that is under way.
        states: where states lie; None: nothing is saved, and nothing found.
        metrics: the file of the log's lines; None: there is none.
        phase: its name in messages.
        runtime: rank 0 saves, and all wait for it.
    """

    def __init__(
        self,
        objective: Objective,
        parts: Mapping[str, Stateful],
        tally: Tally,
        *,
        states: StateFiles | None,
        metrics: Path | None,
        phase: str,
        runtime: Runtime,
    ) -> None:
        self._objective, self._parts, self._tally = objective, parts, tally
        self._states, self._metrics, self._phase, self._runtime = states, metrics, phase, runtime
        self._begun = self._saved = time.monotonic()
        self._pause = 0.0 if states is None else states.config.seconds
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Wall time over every start of the run."""
        return self._before + time.monotonic() - self._begun

    @property
    def due(self) -> bool:
        """Whether this process's clock says that it is time to save."""
        return self._states is not None and time.monotonic() - self._saved >= self._pause

    @property
    def last_good(self) -> str:
        """A sentence about the newest file."""
        path = None if self._states is None else self._states.newest()
        return "No state was saved before." if path is None else f"The last good checkpoint is {path}."

    def restore(self) -> int:
        """Go on from the newest file: the steps that lie behind; 0 where there is none.

        Raises:
            InputError: no file is whole, or it was saved with other parts.
        """
        if self._states is None:
            return 0
        state, damaged = self._states.load(self._runtime.warn)
        # Nobody renames before all have read.
        self._runtime.wait()
        if self._runtime.is_main:
            self._states.set_aside(damaged)
        if state is None:
            return 0
        missing = self._parts.keys() - state.keys()
        if missing:
            raise InputError(
                f"{self._states.newest()}: holds no state of {', '.join(sorted(missing))}; it was saved by another "
                "version or with another precision. Start over with --fresh."
            )
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        if state["sums"]:
            self._tally.load(state["sums"])
        self._before = state["seconds"]
        return int(state["step"])

    def save(self, step: int, *, best: bool = False) -> None:
        """Save it as the newest, or as the best; every process must come here.

        Raises:
            DivergedError: a weight is not finite, which a finite loss does not rule out. Nothing is overwritten.
        """
        weights = [parameter.detach() for parameter in self._objective.parameters()]
        if not bool(torch.isfinite(torch.nn.utils.get_total_norm(weights))):
            raise DivergedError(
                f"{self._phase}: after step {step} the weights are not finite. {self.last_good} {REMEDY}"
            )
        if self._states is None:
            return
        sums, begun = self._tally.gathered(), time.monotonic()
        if self._runtime.is_main:
            if self._metrics is not None:
                # A state must not outlive the lines before it.
                tracker.flush(self._metrics)
            parts = {name: part.state_dict() for name, part in self._parts.items()}
            self._states.save({**parts, "sums": sums, "step": step, "seconds": self.seconds}, best=best)
        self._runtime.wait()
        self._saved = time.monotonic()
        if self._states.config.seconds:
            self._pause = max(self._states.config.seconds, (self._saved - begun) / SHARE)
