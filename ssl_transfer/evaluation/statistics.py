"""From single runs to statements: means with intervals, and differences paired by seed."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
CONTINUED = "imagenet+"
"""What the names of arms begin with whose pretraining goes on from ImageNet weights: imagenet+simclr."""
TIMM, RUN = "timm:", "run:"
"""What the names of arms begin with that take weights as they are: of timm (timm:resnet18.a1_in1k), of a run."""
SUMMARY_COLUMNS = (
    "arm",
    "backbone",
    "labels",
    "phase",
    "metric",
    "num_seeds",
    "mean",
    "low",
    "high",
    "baseline",
    "difference",
    "difference_low",
    "difference_high",
    "p_value",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of `results.csv`. The fields are its columns."""

    arm: str
    backbone: str
    labels: str
    seed: int
    phase: str
    split: str
    metric: str
    value: float


def percent_of(labels: str) -> str | None:
    """A budget that is a share of each class (`0.1`) as a percentage (`10%`); None for a number a class, and `all`."""
    try:
        share = float(labels)
    except ValueError:
        return None
    return f"{100.0 * share:g}%" if 0.0 < share < 1.0 else None


def budget_title(labels: str, noun: str = "") -> str:
    """A budget as a heading: `5 a class`, `10% of each class`, `all labels`; `noun` goes before `a class`."""
    if labels == "all":
        return "all labels"
    percent = percent_of(labels)
    return f"{labels} {noun}a class" if percent is None else f"{percent} of each class"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with its 95 % interval; (-inf, inf) where it is unknown.

    It is unknown with one seed, and where all values agree: a few runs on a few hundred test images can, and that is no
    certainty.
    """

    mean: float
    low: float
    high: float
    p_value: float
    """Of the mean being 0 (two-sided t-test); nan where the interval is unknown."""
    count: int


def estimate(values: Sequence[float]) -> Estimate:
    """Student's t interval for the mean of independent values."""
    count, mean = len(values), float(np.mean(values))
    error = float(stats.sem(values)) if count > 1 else 0.0
    # Equal accuracies may still differ in their last bits.
    if error < 1e-12:
        return Estimate(mean=mean, low=-math.inf, high=math.inf, p_value=math.nan, count=count)
    low, high = stats.t.interval(CONFIDENCE, count - 1, loc=mean, scale=error)
    p_value = float(stats.ttest_1samp(values, 0.0).pvalue)
    return Estimate(mean=mean, low=float(low), high=float(high), p_value=p_value, count=count)


def paired_difference(ours: dict[int, float], theirs: dict[int, float]) -> Estimate:
    """The mean difference over the seeds that both have; the same seed means the same labelled images."""
    return estimate([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])


Cell = tuple[str, str, str, str, str]
"""(arm, backbone, labels, phase, metric)."""


def by_cell(rows: Iterable[Row], *, split: str) -> dict[Cell, dict[int, float]]:
    """The values of one split by what they measure, and in it by seed."""
    cells: dict[Cell, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row.split == split:
            cells[row.arm, row.backbone, row.labels, row.phase, row.metric][row.seed] = row.value
    return dict(cells)


def summarize(rows: Sequence[Row]) -> list[dict[str, object]]:
    """`summary.csv`: each cell of the test split, one row for each baseline that it is compared with.

    The baselines are scratch on the same backbone, and ImageNet, whose backbone is named where it is another.
    """
    cells = by_cell(rows, split="test")
    summary = []
    for cell, values in cells.items():
        found = estimate(list(values.values()))
        shared = dict(zip(SUMMARY_COLUMNS, (*cell, found.count, found.mean, found.low, found.high), strict=False))
        comparisons = [(name, cells[key]) for name, key in baselines_of(cell, cells)]
        for name, baseline in comparisons:
            difference = paired_difference(values, baseline)
            numbers = (name, difference.mean, difference.low, difference.high, difference.p_value)
            summary.append({**shared, **dict(zip(SUMMARY_COLUMNS[-5:], numbers, strict=True))})
        if not comparisons:
            summary.append({**shared, **dict.fromkeys(SUMMARY_COLUMNS[-5:], "")})
    return summary


def baselines_of(cell: Cell, cells: dict[Cell, dict[int, float]]) -> list[tuple[str, Cell]]:
    """The cells that this one is compared with."""
    arm, backbone, *rest = cell
    found = []
    for baseline in ("scratch", "imagenet"):
        same = (baseline, backbone, *rest)
        others = [key for key in cells if key[0] == baseline and list(key[2:]) == rest]
        # ImageNet weights exist for few small backbones, so another backbone's ImageNet is better than none.
        key = same if same in cells else (others[0] if others and baseline == "imagenet" else None)
        if key is not None and arm not in (baseline, "scratch"):
            found.append((baseline if key == same else f"{baseline} ({key[1]})", key))
    return found
