"""Stop a training early when a validation metric no longer improves, and restore its best weights.

Prechelt, "Early stopping - but when?", 1998. His criterion UP counts consecutive evaluations that are worse than the
previous one. This one counts those that are no better than the best, as is usual now.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Name the validation metric for the plateau schedule, early stopping and the best weights."""

    metric: str
    """Its name in the result of `evaluate`."""
    higher_is_better: bool
    """True for an accuracy, False for a loss."""

    def value(self, found: dict[str, float]) -> float:
        """Return its value in an evaluation.

        Raises:
            InputError: the evaluation holds no metric of that name.
        """
        if self.metric not in found:
            raise InputError(
                f"metric {self.metric!r} is watched, and the evaluation gives {', '.join(sorted(found))}."
                f"{did_you_mean(self.metric, found)}"
            )
        return found[self.metric]


@dataclass(frozen=True, kw_only=True)
class StoppingConfig:
    """Set when a phase ends before its last epoch, and with which weights."""

    patience: int = 0
    """Evaluations in a row without improvement after which a phase ends. With it a phase ends with its best weights,
    also where it runs to its last epoch. 0: every phase runs to its last epoch and keeps its last weights."""
    min_delta: float = 0.0
    """Least improvement of the watched metric that counts as one. Only with patience."""

    def __post_init__(self) -> None:
        if self.patience < 0 or self.min_delta < 0:
            raise InputError(f"patience {self.patience}, min_delta {self.min_delta}: neither may be negative.")
        if self.min_delta and not self.patience:
            raise InputError(f"min_delta {self.min_delta} would be ignored without patience: set both, or neither.")


class Stopper:
    """Keep the best weights of one training, and decide when it is over.

    Args:
        patience: consecutive evaluations without improvement; 0 watches nothing and keeps no weights.
        min_delta: least improvement.
        watched: None watches nothing.
    """

    def __init__(self, *, patience: int, min_delta: float, watched: Watched | None) -> None:
        self.active = patience > 0 and watched is not None
        self.watched = watched
        self._patience, self._min_delta = patience, min_delta
        self._metric = "" if watched is None else watched.metric
        self._sign = 1.0 if watched is not None and watched.higher_is_better else -1.0
        self._best: float | None = None
        self._epoch: int | None = None
        self._waited = 0
        self._weights: dict[str, Tensor] = {}

    @property
    def over(self) -> bool:
        """Return whether `patience` consecutive evaluations brought no improvement."""
        return self.active and self._waited >= self._patience

    @property
    def best_epoch(self) -> int | None:
        """Return the epoch, from 1, of the best weights; None before the first improvement."""
        return self._epoch

    def observe(self, value: float, epoch: int, module: nn.Module) -> None:
        """Note an evaluation of `module` after `epoch` (from 1), and copy weights and buffers of the best one.

        A non-finite value is no improvement.
        """
        if not self.active:
            return
        gained = math.isfinite(value) and (self._best is None or self._sign * (value - self._best) > self._min_delta)
        if not gained:
            self._waited += 1
            return
        self._best, self._epoch, self._waited = value, epoch, 0
        # On the CPU: they are read once, and memory of the accelerator is scarce.
        self._weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}

    def restore(self, module: nn.Module) -> None:
        """Load the best weights and buffers into `module`, if there are any."""
        if self._weights:
            module.load_state_dict(self._weights)

    def describe(self) -> dict[str, float]:
        """Return the numbers behind the decision, for the log."""
        counts = {"evaluations_without_improvement": float(self._waited), "patience": float(self._patience)}
        if self._best is None or self._epoch is None:
            return counts
        return {"best_epoch": float(self._epoch), f"best_{self._metric}": self._best, **counts}

    def state_dict(self) -> dict[str, Any]:
        """Return the state, the best weights included; empty if nothing is watched."""
        if not self.active:
            return {}
        return {"best": self._best, "epoch": self._epoch, "waited": self._waited, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        if self.active:
            self._best, self._epoch, self._waited = state["best"], state["epoch"], state["waited"]
            self._weights = state["weights"]


@dataclass(frozen=True, kw_only=True)
class Race:
    """End a training that lies far behind another one (Maron and Moore, "Hoeffding races", NeurIPS 1993)."""

    watched: Watched
    least: float
    """Bound of the watched metric, above which the training goes on; below it where a lower value is better."""
    from_epoch: int
    """First epoch, from 1, after which an evaluation may end the training."""

    def is_lost(self, found: dict[str, float], epoch: int) -> bool:
        """Check an evaluation after `epoch`, from 1."""
        sign = 1.0 if self.watched.higher_is_better else -1.0
        return epoch >= self.from_epoch and sign * (self.watched.value(found) - self.least) < 0


class Best:
    """Find the best evaluation by the watched metric, the first of equal ones. Without a metric, find none."""

    def __init__(self, watched: Watched | None) -> None:
        self._watched = watched
        self._value: float | None = None

    def improved(self, found: dict[str, float], runtime: Runtime) -> bool:
        """Note an evaluation, and return whether it is the best so far, by rank 0's value on every process."""
        if self._watched is None:
            return False
        value = runtime.number_from_main(self._watched.value(found))
        sign = 1.0 if self._watched.higher_is_better else -1.0
        if not math.isfinite(value) or (self._value is not None and sign * (value - self._value) <= 0):
            return False
        self._value = value
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the best value."""
        return {"value": self._value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        self._value = state["value"]
