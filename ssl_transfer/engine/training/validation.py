"""Evaluate an objective during its training, and act on the watched metric."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError

from .checkpointing import Stateful
from .early_stopping import Best, Race, Stopper, StoppingConfig, Watched
from .stepper import Steps
from .training_settings import TrainingPlan


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Set when validation metrics are computed, and what follows from them."""

    evaluate: Callable[[], dict[str, float]] | None = None
    """Computes the metrics of the split `validation`, on every process. It must leave the objective unchanged."""
    every: int = 1
    """Epochs between two evaluations. The last epoch is always evaluated."""
    watched: Watched | None = None
    """The metric that decides on the plateau schedule, early stopping and the best checkpoint."""
    stopping: StoppingConfig = StoppingConfig()
    """When to end before the last epoch."""
    noting: Sequence[Stopper] = ()
    """Further stoppers, which keep the best weights by metrics of their own and end nothing."""
    race: Race | None = None
    """Ends a training that lies far behind another one; None ends none."""


class Evaluations:
    """Run the evaluations of one training.

    Args:
        validation: metrics, and decisions by them.
        plan: epochs and schedule.
        saved: states are saved, the best one too.
        runtime: device and processes.

    Raises:
        InputError: early stopping or the schedule plateau, without a watched metric or without `evaluate`.
    """

    def __init__(self, validation: Validation, plan: TrainingPlan, *, saved: bool, runtime: Runtime) -> None:
        self._validation, self._plan, self._runtime = validation, plan, runtime
        watched, stopping = validation.watched, validation.stopping
        self._decides = stopping.patience > 0 or plan.optimizer.schedule == "plateau"
        if self._decides and (watched is None or validation.evaluate is None):
            raise InputError(
                f"{plan.phase}: early stopping and the schedule plateau go by a metric of labelled validation images, "
                "and none is watched here. Take another --optimizer.schedule and no --stopping.patience, or give such "
                "images."
            )
        self.stopper = Stopper(patience=stopping.patience, min_delta=stopping.min_delta, watched=watched)
        self.is_lost = False
        self._best = Best(watched if validation.evaluate is not None and saved else None)

    def parts(self) -> dict[str, Stateful]:
        """Return the parts of a state that belong to the evaluations."""
        noting = {f"noting {number}": one for number, one in enumerate(self._validation.noting)}
        raced = {} if self._validation.race is None else {"race": self}
        return {"stopper": self.stopper, "best": self._best, **noting, **raced}

    def state_dict(self) -> dict[str, Any]:
        """Return whether the race is lost."""
        return {"lost": self.is_lost}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        self.is_lost = state["lost"]

    @property
    def over(self) -> bool:
        """Return whether the training ends before its last epoch: it no longer improves, or lost its race."""
        return self.stopper.over or self.is_lost

    def due(self, epoch: int) -> bool:
        """Return whether an evaluation follows an epoch, from 0."""
        due = (epoch + 1) % self._validation.every == 0 or epoch + 1 == self._plan.epochs
        return self._validation.evaluate is not None and due

    def run(self, steps: Steps, epoch: int) -> dict[str, float]:
        """Compute the metrics of the averaged weights, and pass them to schedule and stoppers.

        Every process takes rank 0's value of a watched metric, so that all decide alike.
        """
        collectives.broadcast_buffers(steps.objective)
        with steps.average.applied():
            found = self.metrics(steps)
            if self._validation.race is not None:
                lost = self._validation.race.is_lost(found, epoch + 1)
                self.is_lost = bool(self._runtime.number_from_main(float(lost)))
            if self._decides and self._validation.watched is not None:
                value = self._runtime.number_from_main(self._validation.watched.value(found))
                steps.rates.observe(value)
                self.stopper.observe(value, epoch + 1, steps.objective)
            for one in self._validation.noting:
                if one.watched is not None:
                    value = self._runtime.number_from_main(one.watched.value(found))
                    one.observe(value, epoch + 1, steps.objective)
        return found

    def metrics(self, steps: Steps) -> dict[str, float]:
        """Compute the metrics in evaluation mode; empty without `evaluate`."""
        steps.wrapped.eval()
        found = {} if self._validation.evaluate is None else self._validation.evaluate()
        steps.wrapped.train()
        return found

    def improved(self, found: dict[str, float]) -> bool:
        """Return whether an evaluation is the best so far."""
        return self._best.improved(found, self._runtime)
