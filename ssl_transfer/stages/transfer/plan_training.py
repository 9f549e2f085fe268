"""Train the phases of one plan, or of several plans as a tree of phases."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.engine.tracking.tracker import Tracker

from .average import average
from .phases import Training, run_phase
from .plans.phase_tree import Phase, starts_of
from .plans.racing import race_for
from .probe import fit_probe


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Trained phases of a plan."""

    found: dict[str, dict[str, Any]]
    """Metrics of `validation` and cost, by phase."""
    weights: dict[str, dict[str, Tensor]]
    """Final state of the trained module (`Training.learner`), by phase."""

    @property
    def preferred(self) -> str:
        """Name of the phase that validation prefers."""
        return max(self.found, key=lambda name: preference(self.found[name]["validation"]))

    @property
    def cost(self) -> dict[str, Any]:
        """Cost of all phases: `seconds`, `images_seen`, `peak_memory_mb`, `energy_joules` (None if one has none)."""
        costs = list(self.found.values())
        joules = [cost["energy_joules"] for cost in costs]
        return {
            "seconds": sum(cost["seconds"] for cost in costs),
            "images_seen": sum(cost["images_seen"] for cost in costs),
            "peak_memory_mb": max(cost["peak_memory_mb"] for cost in costs),
            "energy_joules": None if None in joules else sum(joules),
        }


def preference(validation: dict[str, float]) -> tuple[float, float]:
    """Rank phases and trials: by accuracy, and among equals by log-loss."""
    return validation["accuracy"], -validation["log_loss"]


def run_plan(
    training: Training,
    phases: Sequence[Phase],
    *,
    tracker: Tracker,
    metrics: Path,
    states: Path | None,
) -> Trained:
    """Train phase after phase. Of several plans, those far behind end early (`racing.py`).

    Args:
        training: shared by the phases; the module has its first weights.
        phases: in their order.
        tracker: where metrics go.
        metrics: the tracker's file.
        states: folder of the checkpoints; None saves none.
    """
    found: dict[str, dict[str, Any]] = {}
    weights: dict[str, dict[str, Tensor]] = {}
    branches = any(phase.after is not None for phase in phases)
    first = copied(training.learner.state_dict()) if branches else {}
    starts = starts_of(phases)
    # A phase from which others start is trained to its end.
    raced = starts.keys() - set(starts.values()) if branches else set()
    for number, phase in enumerate(phases):
        start = starts[phase.name]
        if branches:
            training.learner.load_state_dict(weights[start] if start else first)
        if phase.kind == "average":
            found[phase.name] = average(training, weights[starts[start]], weights[start])
        elif phase.kind == "fit":
            found[phase.name] = fit_probe(training)
        else:
            seed = seed_from(training.seed, 2, number)
            race = race_for(phase, found, len(training.validation)) if phase.name in raced else None
            found[phase.name] = run_phase(
                training, phase, seed=seed, tracker=tracker, metrics=metrics, states=states, race=race
            )
        if phase.kind != "steps":
            _log_once(phase, found[phase.name]["validation"], training, tracker, metrics)
        weights[phase.name] = copied(training.learner.state_dict())
    return Trained(found=found, weights=weights)


def _log_once(phase: Phase, measured: dict[str, float], training: Training, tracker: Tracker, metrics: Path) -> None:
    """Log the measurement of a phase without steps, unless an earlier start did."""
    logged = read_lines(metrics) if training.runtime.is_main and metrics.is_file() else []
    if not any(record.get("phase") == phase.name and record.get("step") for record in logged):
        tracker.log({"phase": phase.name, "epoch": 1, "step": 1, "split": "validation", **measured})


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy a state of a module."""
    return {name: value.clone() for name, value in state.items()}
