"""Build learning curves over all phases of a run, and average them over seeds."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RunKey = tuple[str, str, str, int]
"""(arm, backbone, labels, seed)."""


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
        return {run: self._starts(run, shared=shared) for run in self._runs}

    def of_runs(self, *, split: str, metric: str, shared: bool = False) -> dict[RunKey, Curve]:
        """Return the curve of every run in which the metric was measured; `shared` as in `phase_starts`."""
        curves = {}
        for run, points in self._points.get((split, metric), {}).items():
            starts = self._starts(run, shared=shared)
            curves[run] = Curve(
                steps=[starts[phase] + step for phase, step, _ in points],
                values=[float(value) for *_, value in points],
            )
        return curves

    def _starts(self, run: RunKey, *, shared: bool) -> dict[str, int]:
        # Runs of one budget may have chosen plans with other phases.
        own, lengths = self._lengths[run], self._lengths[run[2] if shared else run]
        return dict(zip(own, np.cumsum([0, *(lengths[phase] for phase in own)])[:-1].tolist(), strict=True))


def mean_curve(curves: Iterable[Curve]) -> Curve:
    """Average curves over seeds; a curve that ends early keeps its last value."""
    curves = list(curves)
    # Begin where all have been measured.
    first = max((curve.steps[0] for curve in curves), default=0)
    steps = sorted({step for curve in curves for step in curve.steps if step >= first})
    return Curve(steps=steps, values=np.mean([curve.at(steps) for curve in curves], axis=0).tolist() if steps else [])
