"""Describe a training to the loop: its plan, its validation, its files, and the summary it returns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.runs.checkpoint_files import StateFiles
from ssl_transfer.engine.tracking.tracker import Tracker

from .early_stopping import Stopper, StoppingConfig, Watched


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Set the length, the randomness and the optimiser of a training."""

    phase: str
    """Name of the training in the log and in messages."""
    epochs: int
    """Passes over the batches, at least 1. The learning-rate schedule covers all of them."""
    seed: int
    """Reseeds torch before every step, so that dropout and the like do not depend on history."""
    optimizer: OptimizerConfig
    """Settings of the steps. Learning rate and weight decay are those of the parameter groups."""


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

    def decides(self, optimizer: OptimizerConfig) -> bool:
        """Return whether the watched metric changes the training."""
        return self.stopping.patience > 0 or optimizer.schedule == "plateau"

    def check(self, plan: TrainingPlan) -> None:
        """Refuse a training that needs a watched metric and has none.

        Raises:
            InputError: early stopping or the schedule plateau, without a metric or without `evaluate`.
        """
        if self.decides(plan.optimizer) and (self.watched is None or self.evaluate is None):
            raise InputError(
                f"{plan.phase}: early stopping and the schedule plateau go by a metric of labelled validation images, "
                "and none is watched here. Take another --optimizer.schedule and no --stopping.patience, or give such "
                "images."
            )


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Set where a training writes metrics and states."""

    tracker: Tracker
    metrics_path: Path | None = None
    """The tracker's file, from which lines after the resumed step are dropped."""
    states: StateFiles | None = None
    """Where states are saved and found; None saves nothing."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Report the cost of a training, and how it ended."""

    steps: int
    """Optimiser steps; fewer than planned after early stopping."""
    images_seen: int
    seconds: float
    """Wall time, evaluation included, over every start of the run."""
    peak_memory_mb: float
    """CUDA: the maximum memory of tensors. CPU: the maximum resident memory of the process."""
    energy_joules: float | None = None
    """Energy that the sensors counted (`energy`); None without a sensor."""
    stopped_early: bool = False
    """Early stopping ended the training before its last epoch."""
    best_epoch: int | None = None
    """The epoch, from 1, whose weights were kept; None if the weights of the last step were kept."""
