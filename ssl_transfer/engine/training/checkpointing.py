"""Save the state of a training, restore it, and decide when it is due again."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import DivergedError, InputError
from ssl_transfer.engine.tracking import tracker

from .epoch_means import Tally
from .objective import Objective
from .training_settings import Saving

SHARE = 0.05
"""Largest share of the time that saving may take."""
REMEDY = (
    "Look at the images, or start over (--fresh, or another --output) with a lower learning rate, a longer warm-up or "
    "--optimizer.clip-norm 1."
)


class Stateful(Protocol):
    """Describe a part of a training that is saved and restored."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers and containers of them."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Continue from the result of `state_dict`."""


class State:
    """Save and restore one training.

    Args:
        objective: its weights must be finite before anything is saved.
        parts: the parts by their names in the file.
        tally: sums of the current epoch.
        saving: where states lie, and the log that they continue.
        phase: its name in messages.
        runtime: rank 0 saves, and all processes wait for it.
    """

    def __init__(
        self,
        objective: Objective,
        parts: Mapping[str, Stateful],
        tally: Tally,
        *,
        saving: Saving,
        phase: str,
        runtime: Runtime,
    ) -> None:
        self._objective, self._parts, self._tally = objective, parts, tally
        self._states, self._metrics, self._phase, self._runtime = saving.states, saving.metrics_path, phase, runtime
        self._begun = self._saved = time.monotonic()
        self._pause = 0.0 if self._states is None else self._states.config.seconds
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Return the wall time over every start of the run."""
        return self._before + time.monotonic() - self._begun

    @property
    def due(self) -> bool:
        """Return whether a state is due, by the clock of this process."""
        return self._states is not None and time.monotonic() - self._saved >= self._pause

    @property
    def last_good(self) -> str:
        """Return a sentence that names the newest file."""
        path = None if self._states is None else self._states.newest()
        return "No state was saved before." if path is None else f"The last good checkpoint is {path}."

    def restore(self) -> int:
        """Continue from the newest file, and return its number of steps; 0 without a file.

        Raises:
            InputError: every file is damaged, or the file was saved with other parts.
        """
        if self._states is None:
            return 0
        state, damaged = self._states.load(self._runtime.warn)
        # Files are renamed after every process has read them.
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
        """Save the newest state, or the best; every process must call this.

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
                # The log must hold every line before the state.
                tracker.flush(self._metrics)
            parts = {name: part.state_dict() for name, part in self._parts.items()}
            self._states.save({**parts, "sums": sums, "step": step, "seconds": self.seconds}, best=best)
        self._runtime.wait()
        self._saved = time.monotonic()
        if self._states.config.seconds:
            self._pause = max(self._states.config.seconds, (self._saved - begun) / SHARE)
