"""Tune a plan: try several learning rates and weight decays, and choose by validation.

The trials are points of Sobol's sequence ("On the distribution of points in a cube and the approximate evaluation of
integrals", USSR Computational Mathematics and Mathematical Physics, 1967), laid log-uniformly around the plan's own
values: with a point u in the unit cube each value is the plan's by 10^(2u - 1), so within a factor of ten. The
coordinates are the rate of phases that train the head alone, that of all others, and the weight decay. The sequence
begins in the middle of the cube, so the first trial is the plan as it stands, and among equals it is the one kept.

The set is fixed: it depends on no result, no seed and no arm, so that every arm of a comparison has the same one. The
trials of a run share its labelled images, its first weights and its order; the test images are not read in them.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.stats import qmc

from ssl_transfer.engine.errors import DivergedError, InputError
from ssl_transfer.engine.io import ownership
from ssl_transfer.engine.io.atomic import DamagedError, write_text
from ssl_transfer.engine.io.checksum import sealed, unsealed
from ssl_transfer.engine.io.json_files import read_json, read_lines
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig

from .phases import Training
from .plan_training import Trained, copied, preference, run_plan
from .plans.phase_tree import Phase, path_to
from .plans.recipe import TransferRecipe


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of values to try."""

    phases: tuple[Phase, ...]
    """Those of the plan, with other learning rates."""
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The trial that validation chose."""

    trained: Trained
    place: Path
    """Its folder."""
    report: dict[str, Any]
    """For the run's result: `trials`, each with its values, its validation and its cost, and the number `chosen`."""


def trials(recipe: TransferRecipe, phases: Sequence[Phase], count: int) -> list[Trial]:
    """Return the first `count` sets of values around a plan's; more trials begin with those of fewer.

    No phase learns faster than the head, as in the plan. A weight decay of 0 stays 0.
    """
    # The origin, which comes before the middle, would be a corner.
    points = qmc.Sobol(d=3, scramble=False).fast_forward(1).random(count)
    factors = (10.0 ** (2.0 * points - 1.0)).tolist()
    found = []
    for head, others, decay in factors:
        heads = [phase.learning_rate * head for phase in phases if phase.trained == "head"]
        limit = min(heads, default=recipe.optimizer.learning_rate)
        tried = tuple(
            replace(
                phase,
                learning_rate=phase.learning_rate * head
                if phase.trained == "head"
                else min(limit, phase.learning_rate * others),
            )
            for phase in phases
        )
        found.append(Trial(phases=tried, weight_decay=recipe.optimizer.weight_decay * decay))
    return found


def tune(training: Training, phases: Sequence[Phase], count: int, *, folder: Path) -> Tuned:
    """Run the trials, each in a folder of its own, and keep the weights of the trial that validation prefers.

    A finished trial is not repeated, and a killed one resumes. A trial with a non-finite loss is excluded.

    Args:
        training: shared by the trials; the module has its first weights, and afterwards those of a trial.
        phases: of the plan.
        count: trials, the plan as it stands among them.
        folder: of the trials.

    Raises:
        InputError: no trial's loss stayed finite.
    """
    candidates = trials(training.recipe, phases, count)
    first = copied(training.learner.state_dict())
    places = [folder / str(number) for number in range(count)]
    reports = [_read(place) for place in places]
    # All ranks read before rank 0 writes.
    training.runtime.wait()
    best, held = -1, None
    for number, place in enumerate(places):
        trained, report = None, reports[number]
        trial = candidates[number] = _continued(candidates[number], phases, reports[0] if number else None)
        if number and not any(phase.kind == "steps" for phase in trial.phases):
            # The head is fitted: there are no rates to tune.
            reports = reports[:number]
            break
        if report is None:
            training.learner.load_state_dict(first)
            try:
                trained = _run(training, trial, place, quiet=number > 0)
                report = _describe(trial, trained)
            except DivergedError as error:
                report = {**_values(trial), "diverged": str(error)}
            reports[number] = report
            if training.runtime.is_main:
                write_text(place / "trial.json", json.dumps(sealed(report), indent=2) + "\n")
        beaten = number
        if _score(report) > _score(reports[best] if best >= 0 else None):
            beaten, best, held = best, number, trained
        if beaten >= 0:
            drop_states(places[beaten], training)
    if best < 0:
        raise InputError(f"--tune {count}: none of the trials can be used. The first: {(reports[0] or {})['diverged']}")
    if held is None:
        # It finished before this start: its phases are at their end already.
        training.learner.load_state_dict(first)
        held = _run(training, candidates[best], places[best], quiet=True)
    return Tuned(
        trained=held,
        place=places[best],
        report={"chosen": best, "trials": reports},
    )


def _continued(trial: Trial, phases: Sequence[Phase], first: dict[str, Any] | None) -> Trial:
    """Restrict a trial to the plan that the first trial preferred. The first, and those after a divergence, keep all.

    Args:
        trial: with all plans.
        phases: of all plans.
        first: report of the first trial; None for the first itself.
    """
    if first is None or "diverged" in first:
        return trial
    path = path_to(phases, first["preferred"])
    branches = any(phase.after is not None for phase in phases)
    return replace(trial, phases=tuple(one for one in trial.phases if one.name in path)) if branches else trial


def _run(training: Training, trial: Trial, place: Path, *, quiet: bool) -> Trained:
    optimizer = replace(training.recipe.optimizer, weight_decay=trial.weight_decay)
    own = replace(training, recipe=replace(training.recipe, optimizer=optimizer), quiet=training.quiet or quiet)
    if training.runtime.is_main:
        place.mkdir(parents=True, exist_ok=True)
    training.runtime.wait()
    metrics = place / "metrics.jsonl"
    tracker = Tracker(metrics, TrackingConfig(), training.runtime, settings={}, group="", job_type="")
    return run_plan(own, trial.phases, tracker=tracker, metrics=metrics, states=_states(place))


def replay(tuned: Tuned, tracker: Tracker) -> None:
    """Copy the log of the chosen trial into the run's log."""
    for record in read_lines(tuned.place / "metrics.jsonl"):
        tracker.log(record)


def drop_states(place: Path, training: Training) -> None:
    """Delete the weights that a trial saved; its values and its log stay."""
    if training.runtime.is_main:
        ownership.remove_folder(_states(place))


def summary(report: dict[str, Any]) -> str:
    """Summarise the choice in a line from `Tuned.report`."""
    chosen = report["trials"][report["chosen"]]
    rates = ", ".join(f"{name} {rate:.2g}" for name, rate in chosen["learning_rates"].items())
    return (
        f"tuned: validation chose trial {report['chosen'] + 1} of {len(report['trials'])} (learning rates: {rates}; "
        f"weight decay {chosen['weight_decay']:.2g})"
    )


def _states(place: Path) -> Path:
    return place / "checkpoints"


def _read(place: Path) -> dict[str, Any] | None:
    """Read the record of a finished trial; None where it has not finished."""
    path, remedy = place / "trial.json", "Remove it, and the same command ends the trial once more."
    if not path.is_file():
        return None
    found = read_json(path, remedy=remedy)
    try:
        return unsealed(found)
    except ValueError as error:
        raise DamagedError(f"{path}: damaged ({error}). {remedy}") from error


def _values(trial: Trial) -> dict[str, Any]:
    return {
        "learning_rates": {phase.name: phase.learning_rate for phase in trial.phases if phase.kind == "steps"},
        "weight_decay": trial.weight_decay,
    }


def _describe(trial: Trial, trained: Trained) -> dict[str, Any]:
    return {
        **_values(trial),
        "preferred": trained.preferred,
        "validation": {name: phase["validation"] for name, phase in trained.found.items()},
        **trained.cost,
    }


def _score(report: dict[str, Any] | None) -> tuple[float, float]:
    if report is None or "diverged" in report:
        return -math.inf, -math.inf
    return preference(report["validation"][report["preferred"]])
