"""Count the steps of a training, and time a few of them, for a dry run.

All else goes its usual way, in a folder that is removed afterwards: the dry run measures the run itself.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import torch

from ssl_transfer.engine.distributed.runtime import Runtime

from .objective import Batch, Batches

STEPS = 4
"""Steps of each training; the first one warms up and is not timed."""
Evaluate = Callable[[], dict[str, float]]
_measured: list["Training"] | None = None


class Training:
    """Hand out the first few batches of a training, and time its steps and evaluations."""

    def __init__(
        self, phase: str, groups: Sequence[dict[str, Any]], batches: Batches, epochs: int, runtime: Runtime
    ) -> None:
        self.phase, self.epochs, self.steps = phase, epochs, epochs * batches.steps_per_epoch
        self.learning_rate = max(group["lr"] for group in groups)
        self.num_trained = sum(parameter.numel() for group in groups for parameter in group["params"])
        self.num_evaluations = 0
        self.steps_per_epoch, self.batch_size = min(STEPS, batches.steps_per_epoch), batches.batch_size
        self._batches, self._runtime = batches, runtime
        self._step_seconds, self._evaluation_seconds = list[float](), list[float]()

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the first batches of an epoch, and time what is done with each."""
        started = self._now()
        for batch in itertools.islice(self._batches.epoch(epoch, first), self.steps_per_epoch - first):
            yield batch
            now = self._now()
            self._step_seconds.append(now - started)
            started = now

    def names(self, epoch: int, number: int) -> Sequence[str]:
        """Name the images of a batch."""
        return self._batches.names(epoch, number)

    def timed(self, evaluate: Evaluate) -> dict[str, float]:
        """Evaluate, and time it."""
        started = self._now()
        found = evaluate()
        self._evaluation_seconds.append(self._now() - started)
        return found

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return median(self._step_seconds[1:] or self._step_seconds or [0.0])

    @property
    def seconds(self) -> float:
        """Estimated seconds of the whole training."""
        return self.steps * self.step + self.num_evaluations * median(self._evaluation_seconds or [0.0])

    @property
    def spent(self) -> float:
        """Seconds that the few steps and evaluations took."""
        return sum(self._step_seconds) + sum(self._evaluation_seconds)

    def _now(self) -> float:
        if self._runtime.device.type == "cuda":
            torch.cuda.synchronize(self._runtime.device)
        return time.monotonic()


@contextlib.contextmanager
def rehearsing() -> Iterator[list[Training]]:
    """Shorten the trainings of the `with` block, and yield the list that they are added to."""
    global _measured
    _measured = []
    try:
        yield _measured
    finally:
        _measured = None


def shortened(
    phase: str,
    groups: Sequence[dict[str, Any]],
    batches: Batches,
    epochs: int,
    evaluate: Evaluate | None,
    evaluate_every: int,
    runtime: Runtime,
) -> tuple[Batches, int, Evaluate | None]:
    """Return the batches, epochs and evaluation of a training: its own, or in a dry run those of a short one."""
    if _measured is None:
        return batches, epochs, evaluate
    training = Training(phase, groups, batches, epochs, runtime)
    _measured.append(training)
    few = min(epochs, -(-STEPS // training.steps_per_epoch))
    if evaluate is None:
        return training, few, None
    training.num_evaluations = -(-epochs // evaluate_every)
    return training, few, lambda: training.timed(evaluate)
