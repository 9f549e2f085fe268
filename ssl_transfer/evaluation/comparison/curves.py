"""Build learning curves over all phases of a run, and measure the three benefits of transfer on them.

Torrey and Shavlik, "Transfer learning", Handbook of Research on Machine Learning Applications, 2010, figure 2: a higher
start (jumpstart), a steeper slope, a higher asymptote. All three are of validation accuracy, each arm against scratch
on the same backbone, paired by seed:

- jumpstart: the difference before any training, by nearest neighbours in the features, as a new head is random. Where
  that was not measured: the difference at the first measurement, and the note gives its step.
- steps to threshold: the steps until the accuracy first reaches the threshold, by default 90 % of the final accuracy of
  scratch with the same seed. Steps are as coarse as the interval between measurements.
- asymptote: the difference at the end of the last phase.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.evaluation.metric_properties import ACCURACY, POSITIVE, Limits

from .estimates import paired_difference

RunKey = tuple[str, str, str, int]
"""(arm, backbone, labels, seed)."""
SHARE_OF_SCRATCH = 0.9
"""Default threshold, as a share of scratch's final accuracy."""
BENEFIT_COLUMNS = (
    *("arm", "backbone", "labels", "baseline", "benefit", "num_seeds", "ours", "theirs"),
    *("difference", "difference_low", "difference_high", "p_value", "note"),
)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric of one run over all its phases; steps continue from phase to phase."""

    steps: list[int] = field(default_factory=list)
    """Optimiser steps since the first phase began, not falling."""
    values: list[float] = field(default_factory=list)

    def steps_to(self, threshold: float) -> int | None:
        """Return the first measured step at which the threshold is reached; None if it never is."""
        return next((step for step, value in zip(self.steps, self.values, strict=True) if value >= threshold), None)

    def at(self, steps: Sequence[int]) -> np.ndarray:
        """Return the last measured value at each step: (len(steps),); nan before the first measurement."""
        places = np.searchsorted(self.steps, steps, side="right")
        return np.array([np.nan, *self.values])[places]


class Curves:
    """Index the lines of `curves.csv` by metric and run.

    Args:
        lines: in the order in which they were written.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self._runs: dict[RunKey, None] = {}
        # Steps of each phase: of a run, and of the longest run of a budget.
        self._lengths: dict[RunKey | str, dict[str, int]] = defaultdict(dict)
        self._points: dict[tuple[str, str], dict[RunKey, list[tuple[str, int, Any]]]] = defaultdict(dict)
        for line in lines:
            run = line["arm"], line["backbone"], line["labels"], int(line["seed"])
            phase, step = line["phase"], int(line["step"])
            self._runs[run] = None
            for key in (run, run[2]):
                lengths = self._lengths[key]
                lengths[phase] = max(lengths.get(phase, 0), step)
            points = self._points[line["split"], line["metric"]]
            points.setdefault(run, []).append((phase, step, line["value"]))

    def phase_starts(self, *, shared: bool = False) -> dict[RunKey, dict[str, int]]:
        """Return the optimiser step at which each phase of each run begins.

        Args:
            shared: give each phase the length that it has in the longest run of the same budget, so that all runs of
                the budget share one axis though some stopped early.
        """
        return {run: _starts(self._lengths[run[2] if shared else run]) for run in self._runs}

    def of_runs(self, *, split: str, metric: str, shared: bool = False) -> dict[RunKey, Curve]:
        """Return the curve of every run in which the metric was measured; `shared` as in `phase_starts`."""
        curves = {}
        for run, points in self._points.get((split, metric), {}).items():
            starts = _starts(self._lengths[run[2] if shared else run])
            curves[run] = Curve(
                steps=[starts[phase] + step for phase, step, _ in points],
                values=[float(value) for *_, value in points],
            )
        return curves


def _starts(lengths: Mapping[str, int]) -> dict[str, int]:
    return dict(zip(lengths, np.cumsum([0, *lengths.values()])[:-1].tolist(), strict=True))


def mean_curve(curves: Iterable[Curve]) -> Curve:
    """Average curves over seeds; a curve that ends early keeps its last value."""
    curves = list(curves)
    # Begin where all have been measured.
    first = max((curve.steps[0] for curve in curves), default=0)
    steps = sorted({step for curve in curves for step in curve.steps if step >= first})
    return Curve(steps=steps, values=np.mean([curve.at(steps) for curve in curves], axis=0).tolist() if steps else [])


def transfer_benefits(curves: Curves, *, threshold: float | None = None) -> list[dict[str, str | int | float]]:
    """Measure jumpstart, steps to threshold and asymptote: the lines of `transfer_benefits.csv`.

    `ours` and `theirs` are means over shared seeds; `difference` is paired by seed, with its 95 % interval. Seeds that
    never reach the threshold are left out of the steps, and the note counts them; nan where none is left. The threshold
    is an accuracy, 0..1; None takes `SHARE_OF_SCRATCH` of each seed's scratch.
    """
    cells = _by_cell(curves.of_runs(split="validation", metric="accuracy"))
    neighbours = _by_cell(curves.of_runs(split="validation", metric="knn_accuracy"))
    rows = []
    for (arm, backbone, labels), ours in cells.items():
        theirs = cells.get(("scratch", backbone, labels), {})
        seeds = sorted(ours.keys() & theirs.keys())
        if arm == "scratch" or not seeds:
            continue
        measured = _measured(ours, theirs, seeds, threshold)
        known = [neighbours.get((name, backbone, labels), {}) for name in (arm, "scratch")]
        if all(by_seed.keys() >= set(seeds) for by_seed in known):
            starts = [_values_at(by_seed, seeds, 0) for by_seed in known]
            measured["jumpstart"] = (starts[0], starts[1], "nearest neighbours in the features, before any training")
        for benefit, (our_values, their_values, note) in measured.items():
            within = POSITIVE if benefit == "steps_to_threshold" else ACCURACY.limits
            numbers = (*_compared(our_values, their_values, within), note)
            rows.append(dict(zip(BENEFIT_COLUMNS, (arm, backbone, labels, "scratch", benefit, *numbers), strict=True)))
    return rows


def _by_cell(curves: Mapping[RunKey, Curve]) -> dict[tuple[str, str, str], dict[int, Curve]]:
    """Group curves: (arm, backbone, labels) -> seed -> curve."""
    cells: dict[tuple[str, str, str], dict[int, Curve]] = defaultdict(dict)
    for (arm, backbone, labels, seed), curve in curves.items():
        cells[arm, backbone, labels][seed] = curve
    return cells


def _compared(ours: dict[int, float], theirs: dict[int, float], within: Limits) -> tuple[int | float, ...]:
    """Return the columns from `num_seeds` to `p_value`, over shared seeds."""
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return (0, *(math.nan,) * 3, -math.inf, math.inf, math.nan)
    means = [float(np.mean([values[seed] for seed in shared])) for values in (ours, theirs)]
    found = paired_difference(ours, theirs, within=within)
    return (found.count, *means, found.mean, found.low, found.high, found.p_value)


def _measured(
    ours: dict[int, Curve], theirs: dict[int, Curve], seeds: Sequence[int], threshold: float | None
) -> dict[str, tuple[dict[int, float], dict[int, float], str]]:
    """Return for each benefit our values and those of scratch, by seed, and a note."""
    first = max(curves[seed].steps[0] for curves in (ours, theirs) for seed in seeds)
    begun = f"first measured at step {first}, when training had begun" if first else "measured before any training"
    asked = {seed: SHARE_OF_SCRATCH * theirs[seed].values[-1] if threshold is None else threshold for seed in seeds}
    reached = [
        {seed: float(step) for seed in seeds if (step := curves[seed].steps_to(asked[seed])) is not None}
        for curves in (ours, theirs)
    ]
    what = f" ({SHARE_OF_SCRATCH:.0%} of scratch's final accuracy)" if threshold is None else ""
    counts = f"reached in {len(reached[0])} of {counted(len(seeds), 'run')}, and in {len(reached[1])} from scratch"
    level = f"threshold {np.mean(list(asked.values())):.3f}{what}; {counts}"
    return {
        "jumpstart": (_values_at(ours, seeds, 0), _values_at(theirs, seeds, 0), begun),
        "steps_to_threshold": (reached[0], reached[1], level),
        "asymptote": (_values_at(ours, seeds, -1), _values_at(theirs, seeds, -1), "at the end of the last phase"),
    }


def _values_at(curves: dict[int, Curve], seeds: Sequence[int], place: int) -> dict[int, float]:
    return {seed: curves[seed].values[place] for seed in seeds}
