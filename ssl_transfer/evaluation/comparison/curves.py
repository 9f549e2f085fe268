"""Curves over all phases of a run, and the three benefits of transfer that they show.

Torrey and Shavlik, "Transfer learning", Handbook of Research on Machine Learning Applications, 2010, figure 2: a higher
start (jumpstart), a steeper slope, a higher asymptote. Here all three are of validation accuracy, each arm against
scratch on the same backbone, paired by seed:

- jumpstart: the difference before any training, by nearest neighbours in the features, as a new head knows nothing.
  Where that was not measured, the difference at the first measurement, and the note says at which step.
- steps to threshold: the steps until the accuracy first reaches the threshold, by default 90 % of the final accuracy of
  scratch with the same seed. Accuracy is measured now and then, so steps are as coarse as that.
- asymptote: the difference at the end of the last phase.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssl_transfer.engine.console.formatting import counted

from .estimates import POSITIVE, SHARE, Limits, paired_difference

Run = tuple[str, str, str, int]
"""(arm, backbone, labels, seed)."""
SHARE_OF_SCRATCH = 0.9
"""Of scratch's final accuracy: the threshold, unless another is given."""
BENEFIT_COLUMNS = (
    *("arm", "backbone", "labels", "baseline", "benefit", "num_seeds", "ours", "theirs"),
    *("difference", "difference_low", "difference_high", "p_value", "note"),
)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric of one run over all its phases. Steps are counted on from phase to phase."""

    steps: list[int] = field(default_factory=list)
    """Optimiser steps since the first phase began, not falling."""
    values: list[float] = field(default_factory=list)
    """The metric at each."""

    def steps_to(self, threshold: float) -> int | None:
        """The first measured step at which the threshold is reached; None where it never is."""
        return next((step for step, value in zip(self.steps, self.values, strict=True) if value >= threshold), None)

    def at(self, steps: Sequence[int]) -> np.ndarray:
        """The value last measured at each of these steps: (len(steps),); nan before the first."""
        places = np.searchsorted(self.steps, steps, side="right")
        return np.array([np.nan, *self.values])[places]


def run_of(line: Mapping[str, Any]) -> Run:
    """Which run a line of `curves.csv` belongs to."""
    return line["arm"], line["backbone"], line["labels"], int(line["seed"])


def phase_starts(lines: Sequence[Mapping[str, Any]], *, shared: bool) -> dict[Run, dict[str, int]]:
    """For each run where its phases begin, in their order, in optimiser steps since the first of them began.

    Args:
        lines: of `curves.csv`, in the order in which they were written.
        shared: count every phase as long as in the run of the same budget where it took longest, so that all of them
            have one axis though some stopped early. Otherwise each by itself.
    """
    lengths: dict[Run | str, dict[str, int]] = defaultdict(dict)
    for line in lines:
        found = lengths[line["labels"] if shared else run_of(line)]
        found[line["phase"]] = max(found.get(line["phase"], 0), int(line["step"]))
    starts = {
        key: dict(zip(found, np.cumsum([0, *found.values()])[:-1].tolist(), strict=True))
        for key, found in lengths.items()
    }
    runs = dict.fromkeys(run_of(line) for line in lines)
    return {run: starts[run[2] if shared else run] for run in runs}


def curves_of_runs(
    lines: Sequence[Mapping[str, Any]], *, split: str, metric: str, shared: bool = False
) -> dict[Run, Curve]:
    """The curve of every run that was measured.

    Args:
        lines: of `curves.csv`, in the order in which they were written.
        split: train or validation.
        metric: such as accuracy.
        shared: as in `phase_starts`.
    """
    starts = phase_starts(lines, shared=shared)
    found: dict[Run, Curve] = defaultdict(Curve)
    for line in lines:
        if (line["split"], line["metric"]) == (split, metric):
            run = run_of(line)
            found[run].steps.append(starts[run][line["phase"]] + int(line["step"]))
            found[run].values.append(float(line["value"]))
    return dict(found)


def mean_curve(curves: Iterable[Curve]) -> Curve:
    """The mean over seeds; one that has stopped early keeps its last value."""
    held = list(curves)
    # From where all have been measured.
    first = max((curve.steps[0] for curve in held), default=0)
    steps = sorted({step for curve in held for step in curve.steps if step >= first})
    return Curve(steps=steps, values=np.mean([curve.at(steps) for curve in held], axis=0).tolist() if steps else [])


def transfer_benefits(
    lines: Sequence[Mapping[str, Any]], *, threshold: float | None = None
) -> list[dict[str, str | int | float]]:
    """`transfer_benefits.csv`: three rows for each arm, backbone and budget, of the columns `BENEFIT_COLUMNS`.

    `ours` and `theirs` are means over the seeds that both have, `difference` is paired by seed with its 95 % interval.
    Of the steps, seeds that never reach the threshold are left out, and the note counts them; nan where none is left.

    Args:
        lines: of `curves.csv`.
        threshold: an accuracy, 0..1; None takes `SHARE_OF_SCRATCH` of each seed's scratch.
    """
    cells = _by_cell(curves_of_runs(lines, split="validation", metric="accuracy"))
    neighbours = _by_cell(curves_of_runs(lines, split="validation", metric="knn_accuracy"))
    rows = []
    for (arm, backbone, labels), ours in cells.items():
        theirs = cells.get(("scratch", backbone, labels), {})
        seeds = sorted(ours.keys() & theirs.keys())
        if arm == "scratch" or not seeds:
            continue
        measured = _measured(ours, theirs, seeds, threshold)
        known = [neighbours.get((name, backbone, labels), {}) for name in (arm, "scratch")]
        if all(held.keys() >= set(seeds) for held in known):
            starts = [_picked(held, seeds, 0) for held in known]
            measured["jumpstart"] = (starts[0], starts[1], "nearest neighbours in the features, before any training")
        for benefit, (our_values, their_values, note) in measured.items():
            within = POSITIVE if benefit == "steps_to_threshold" else SHARE
            numbers = (*_compared(our_values, their_values, within), note)
            rows.append(dict(zip(BENEFIT_COLUMNS, (arm, backbone, labels, "scratch", benefit, *numbers), strict=True)))
    return rows


def _by_cell(curves: Mapping[Run, Curve]) -> dict[tuple[str, str, str], dict[int, Curve]]:
    """(arm, backbone, labels) -> by seed."""
    cells: dict[tuple[str, str, str], dict[int, Curve]] = defaultdict(dict)
    for (arm, backbone, labels, seed), curve in curves.items():
        cells[arm, backbone, labels][seed] = curve
    return cells


def _compared(ours: dict[int, float], theirs: dict[int, float], within: Limits) -> tuple[int | float, ...]:
    """The columns from `num_seeds` to `p_value`, over the seeds that both have."""
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return (0, *(math.nan,) * 3, -math.inf, math.inf, math.nan)
    means = [float(np.mean([held[seed] for seed in shared])) for held in (ours, theirs)]
    found = paired_difference(ours, theirs, within=within)
    return (found.count, *means, found.mean, found.low, found.high, found.p_value)


def _measured(
    ours: dict[int, Curve], theirs: dict[int, Curve], seeds: Sequence[int], threshold: float | None
) -> dict[str, tuple[dict[int, float], dict[int, float], str]]:
    """For each benefit the values of ours and of scratch by seed, and a note."""
    first = max(held[seed].steps[0] for held in (ours, theirs) for seed in seeds)
    begun = f"first measured at step {first}, when training had begun" if first else "measured before any training"
    asked = {seed: SHARE_OF_SCRATCH * theirs[seed].values[-1] if threshold is None else threshold for seed in seeds}
    reached = [
        {seed: float(step) for seed in seeds if (step := held[seed].steps_to(asked[seed])) is not None}
        for held in (ours, theirs)
    ]
    what = f" ({SHARE_OF_SCRATCH:.0%} of scratch's final accuracy)" if threshold is None else ""
    counts = f"reached in {len(reached[0])} of {counted(len(seeds), 'run')}, and in {len(reached[1])} from scratch"
    level = f"threshold {np.mean(list(asked.values())):.3f}{what}; {counts}"
    return {
        "jumpstart": (_picked(ours, seeds, 0), _picked(theirs, seeds, 0), begun),
        "steps_to_threshold": (reached[0], reached[1], level),
        "asymptote": (_picked(ours, seeds, -1), _picked(theirs, seeds, -1), "at the end of the last phase"),
    }


def _picked(curves: dict[int, Curve], seeds: Sequence[int], place: int) -> dict[int, float]:
    return {seed: curves[seed].values[place] for seed in seeds}
