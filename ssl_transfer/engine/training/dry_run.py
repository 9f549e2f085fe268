"""What a dry run measures: for its `with` block every training takes a few steps, and notes how many it would take.

All else goes its usual way, so that what is measured is what will be done. Whoever rehearses gives it a folder that is
thrown away.
"""

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ssl_transfer.engine.distributed.runtime import Runtime

from .objective import Batch, Batches

STEPS = 4
"""Of each training; the first of them, which also warms up, is not timed."""
Evaluate = Callable[[], dict[str, float]]


@dataclass(kw_only=True)
class Training:
    """A training that was shortened."""

    phase: str
    epochs: int
    steps: int
    """It would take."""
    taken: int
    """It took."""
    batch_size: int
    learning_rate: float
    """The largest of its groups."""
    num_trained: int
    """Parameters."""
    evaluations: int
    """It would make."""
    step_seconds: list[float] = field(default_factory=list)
    evaluation_seconds: list[float] = field(default_factory=list)

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.step_seconds[1:] or self.step_seconds or [0.0])

    @property
    def seconds(self) -> float:
        """All of it would take: an estimate."""
        evaluation = statistics.median(self.evaluation_seconds or [0.0])
        return self.steps * self.step + self.evaluations * evaluation

    @property
    def spent(self) -> float:
        """Seconds that it took."""
        return sum(self.step_seconds) + sum(self.evaluation_seconds)


_noted: list[list[Training]] = []


@contextlib.contextmanager
def rehearsing() -> Iterator[list[Training]]:
    """For the `with` block trainings are shortened, and are noted in the list that it gives."""
    _noted.append([])
    try:
        yield _noted[-1]
    finally:
        _noted.pop()


def shortened(
    phase: str,
    groups: Sequence[dict[str, Any]],
    batches: Batches,
    epochs: int,
    evaluate: Evaluate | None,
    evaluate_every: int,
    runtime: Runtime,
) -> tuple[Batches, int, Evaluate | None]:
    """The batches, epochs and evaluation that a training is to use: its own, unless it is rehearsed."""
    if not _noted:
        return batches, epochs, evaluate
    few = min(STEPS, batches.steps_per_epoch)
    fewer = min(epochs, -(-STEPS // few))
    training = Training(
        phase=phase,
        epochs=epochs,
        steps=epochs * batches.steps_per_epoch,
        taken=few * fewer,
        batch_size=batches.batch_size,
        learning_rate=max(group["lr"] for group in groups),
        num_trained=sum(parameter.numel() for group in groups for parameter in group["params"]),
        evaluations=0 if evaluate is None else -(-epochs // evaluate_every),
    )
    _noted[-1].append(training)

    def timed() -> dict[str, float]:
        started = _now(runtime)
        found = evaluate() if evaluate is not None else {}
        training.evaluation_seconds.append(_now(runtime) - started)
        return found

    return _Few(batches, few, training, runtime), fewer, None if evaluate is None else timed


class _Few:
    """The first batches of each epoch, with the time that each step takes."""

    def __init__(self, batches: Batches, count: int, training: Training, runtime: Runtime) -> None:
        self.steps_per_epoch, self.batch_size = count, batches.batch_size
        self._batches, self._training, self._runtime = batches, training, runtime

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        started = _now(self._runtime)
        for batch in itertools.islice(self._batches.epoch(epoch, first), self.steps_per_epoch - first):
            yield batch
            now = _now(self._runtime)
            self._training.step_seconds.append(now - started)
            started = now

    def names(self, epoch: int, number: int) -> Sequence[str]:
        return self._batches.names(epoch, number)


def _now(runtime: Runtime) -> float:
    """The time when the device has done what it was given."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    return time.monotonic()
