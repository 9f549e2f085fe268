"""Estimate the label value of an arm: "SimCLR at 20 labels a class equals scratch at 74".

Newell and Deng, "How Useful is Self-Supervised Pretraining for Visual Tasks?", CVPR 2020: of an arm with accuracy a at
n labels, n' is the number at which the baseline has the same accuracy; the utility is n' / n - 1. Here n' is read off
the baseline's accuracies at the measured budgets: made rising by isotonic regression (the mean over runs may dip by
chance, accuracy over labels does not), and interpolated linearly over the logarithm of the labels. Nothing is
extrapolated.

The interval contains every count whose accuracy the paired t interval does not separate from the arm's. At n' the
difference "arm at n minus baseline at n'" is taken for each pretraining (the mean of its seeds), for each seed of one
network, or with one seed for each test image; n' is left out where the interval of the mean difference excludes 0
(Fieller 1954 did so for ratios). With few units this covers 95 %; a bootstrap over three seeds, with ten different
draws, does not (docs/statistics.md has both, simulated).

Shapes: U units (pretrainings, seeds, or test images of one seed), P measured label counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from ssl_transfer.evaluation.metric_properties import metric_named

from .estimates import IMAGES, sample_of, unit_means
from .results import Cell, Pair, Results
from .significance import CONFIDENCE

LABEL_VALUE_COLUMNS = (
    *("arm", "backbone", "labels", "images_per_class", "baseline", "num_seeds", "equals", "equals_low", "equals_high"),
    *("utility", "utility_low", "utility_high", "least", "most", "interval_over"),
)
_STEPS = 500
"""Counts between least and most that are tried for the interval."""


@dataclass(frozen=True, kw_only=True)
class LabelValue:
    """Labelled training images, mean over classes. Inf is beyond `most`, -inf below `least`."""

    own: float
    """Count of the arm."""
    equals: float
    """Count that the baseline needs for the same accuracy."""
    low: float
    """The 95 % interval of `equals`; (-inf, inf) where it is unknown."""
    high: float
    least: float
    """The baseline's smallest budget."""
    most: float
    """Its largest."""
    num_seeds: int
    over: str
    """Sample of the interval, see `Estimate`."""

    @property
    def text(self) -> str:
        """Format count and interval: `74 [52, more than 104]`."""
        if not self.over:
            return f"{self._count(self.equals)} [no interval]"
        return f"{self._count(self.equals)} [{self._count(self.low)}, {self._count(self.high)}]"

    def _count(self, count: float) -> str:
        if math.isinf(count):
            return f"more than {_rounded(self.most)}" if count > 0 else f"fewer than {_rounded(self.least)}"
        return _rounded(count)


def _rounded(count: float) -> str:
    """Format a mean number of images, with a decimal below 10 where it is no whole number."""
    return f"{count:,.0f}" if count >= 10.0 or count == round(count) else f"{count:.1f}"


def equal_count(ours: np.ndarray, theirs: np.ndarray, counts: np.ndarray) -> tuple[float, float, float]:
    """Compute the label count at which the baseline has the arm's accuracy, with its 95 % interval.

    Args:
        ours: (U,) accuracies of the arm; of single images 0 or 1.
        theirs: (U, P) accuracies of the baseline, the same units.
        counts: (P,) labels of the baseline, rising, above 0; P at least 2.
    """
    logs, means = np.log(counts), theirs.mean(axis=0)
    rising = optimize.isotonic_regression(means).x
    equals = _reached(float(ours.mean()), rising, logs)
    if len(ours) < 2:
        return equals, -math.inf, math.inf
    # At each tried count the difference is a weighted sum of the columns: its mean and variance follow from theirs.
    tried = np.sort(
        np.append(np.linspace(logs[0], logs[-1], _STEPS), [math.log(equals)] if 0 < equals < math.inf else [])
    )
    weights = np.stack([np.interp(tried, logs, unit) for unit in np.eye(len(logs))], axis=1)
    difference = ours.mean() - weights @ rising
    signed = np.concatenate([np.ones((len(tried), 1)), -weights], axis=1)
    covariance = np.cov(np.column_stack([ours, theirs]), rowvar=False)
    variance = ((signed @ covariance) * signed).sum(axis=1).clip(min=0.0)
    error = np.sqrt(variance / len(ours))
    # Where all units agree, but for rounding, the interval is unknown, as in `estimate`.
    reach = np.where(error < 1e-7, math.inf, error * special.stdtrit(len(ours) - 1, (1.0 + CONFIDENCE) / 2.0))
    inside = np.flatnonzero(np.abs(difference) <= reach)
    if not len(inside):
        # Every measured count differs from the arm: too little, or too much.
        end = math.inf if difference[-1] > 0 else -math.inf
        return equals, end, end
    # The estimate is inside, also where the last budget differs by chance and those before it do not.
    low = -math.inf if inside[0] == 0 or equals < counts[0] else math.exp(tried[inside[0]])
    high = math.inf if inside[-1] == len(tried) - 1 or equals > counts[-1] else math.exp(tried[inside[-1]])
    return equals, low, high


def _reached(accuracy: float, rising: np.ndarray, logs: np.ndarray) -> float:
    """Return the least count with this accuracy."""
    # Equal accuracies may still differ in their last bits.
    place = int(np.searchsorted(rising, accuracy - 1e-12))
    if place == len(rising):
        return math.inf
    if place == 0:
        return math.exp(logs[0]) if rising[0] <= accuracy + 1e-12 else -math.inf
    return math.exp(np.interp(accuracy, rising[place - 1 : place + 1], logs[place - 1 : place + 1]))


def value_of(results: Results, cell: Cell, baseline: Pair) -> LabelValue | None:
    """Estimate the labels that the baseline needs for the chosen accuracy of a cell.

    Returns None where the baseline has no curve: fewer than two budgets, or unknown numbers of images.
    """
    images_per_class, cells = results.images_per_class, results.test
    measured: dict[float, Cell] = {}
    for labels, count in images_per_class.items():
        key: Cell = (*baseline, labels, cell[3], cell[4])
        if key in cells:
            measured.setdefault(count, key)
    counts = sorted(measured)
    if len(counts) < 2 or cell[2] not in images_per_class:
        return None
    columns = [cell, *(measured[count] for count in counts)]
    seeds = sorted(set.intersection(*(set(cells[key]) for key in columns)))
    if not seeds:
        return None
    pretrainings = results.pretrainings_of(seeds, cell)
    # Rising with the labels, also of a metric that is better when lower.
    sign = metric_named(cell[4]).score(1.0)
    units = sign * unit_means(np.array([[cells[key][seed] for key in columns] for seed in seeds]), pretrainings)
    over = sample_of(pretrainings)
    if len(seeds) == 1:
        images = [results.hits.get(key, {}).get(seeds[0]) for key in columns]
        known = [column.astype(float) for column in images if column is not None]
        units, over = (np.stack(known, axis=1), IMAGES) if len(known) == len(columns) else (units, "")
    equals, low, high = equal_count(units[:, 0], units[:, 1:], np.array(counts))
    # Where all units agree, but for rounding, the interval is unknown, as in `estimate`.
    if np.ptp(units[:, :1] - units[:, 1:], axis=0).max() < 1e-12:
        over = ""
    return LabelValue(
        own=images_per_class[cell[2]],
        equals=equals,
        low=low,
        high=high,
        least=counts[0],
        most=counts[-1],
        num_seeds=len(seeds),
        over=over,
    )


def label_values(results: Results) -> list[tuple[Cell, str, LabelValue]]:
    """Estimate label values of each arm, budget and baseline of `summary.csv`: (cell, baseline's name, value)."""
    found = []
    for cell in (cell for cell in results.test if cell[3:] == ("chosen", "accuracy")):
        for name, key in results.baselines(cell):
            value = value_of(results, cell, key[:2])
            if value is not None:
                found.append((cell, name, value))
    return found


def table_rows(values: Sequence[tuple[Cell, str, LabelValue]]) -> list[list[object]]:
    """Return the lines of `label_value.csv`, of the columns `LABEL_VALUE_COLUMNS`."""
    rows: list[list[object]] = []
    for (arm, backbone, labels, *_), baseline, value in values:
        counts = [value.equals, value.low, value.high]
        utilities = [count / value.own - 1.0 for count in counts]
        shared = [arm, backbone, labels, value.own, baseline, value.num_seeds]
        rows.append([*shared, *counts, *utilities, value.least, value.most, value.over])
    return rows
