"""Describe a training to the loop: its plan, its files, its monitor, and the summary that it returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.runs.checkpoint_files import StateFiles
from ssl_transfer.engine.tracking.tracker import Tracker


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
class Saving:
    """Set where a training writes metrics and states."""

    tracker: Tracker
    metrics_path: Path | None = None
    """The tracker's file, from which lines after the resumed step are dropped."""
    states: StateFiles | None = None
    """Files of the training state; None saves nothing."""


class Monitor(Protocol):
    """Look at the metrics of single steps and of evaluations; its state is saved with that of the training."""

    every: int
    """Optimiser steps between two looks. Each look waits for the device."""

    def look(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Look at one step or evaluation, and return the metrics of an alarm for the log, or nothing.

        Args:
            step: number of steps so far.
            values: `loss` and the metrics of a step, or the metrics of an evaluation; equal on every process.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return numbers, strings and containers of them."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Continue from the result of `state_dict`."""


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
    lost_race: bool = False
    """The race against another training (`early_stopping.Race`) ended this one before its last epoch."""
