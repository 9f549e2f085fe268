"""From single runs to statements: means with intervals, and differences paired by seed."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from ssl_transfer.evaluation.comparison.significance import CONFIDENCE, bootstrap_interval, effect_size, holm

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
    "p_value_holm",
    "effect_size",
    "interval_over",
    "num_pairs",
)
SEEDS, IMAGES = "seeds", "test images"
"""What an interval is over."""
Limits = tuple[float, float]
"""Between which a number lies, whatever is measured."""
SHARE: Limits = (0.0, 1.0)
"""Of accuracies, and of all else that is a part of a whole."""
POSITIVE: Limits = (0.0, math.inf)
"""Of counts, costs and losses."""


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
    """A budget as a heading: `5 a class`, `10% of each class`, `all labels`; `noun`, in the singular, before `a`."""
    if labels == "all":
        return "all labels"
    percent = percent_of(labels)
    if percent is not None:
        return f"{percent} of each class"
    return f"{labels} {noun}{'s' if noun and labels != '1' else ''}{' ' if noun else ''}a class"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with its 95 % interval; (-inf, inf) where it is unknown.

    No interval goes beyond what the number can be, whatever Student's t says. It is unknown where all values agree: a
    few runs on a few hundred test images can, and that is no certainty. With one seed it is unknown unless it was kept
    which test images were right.
    """

    mean: float
    low: float
    high: float
    p_value: float
    """Of the mean being 0 for another draw of labels (two-sided t-test); nan where no seeds tell."""
    count: int
    over: str = ""
    """What the interval is over: `SEEDS`, or `IMAGES` of one seed; empty where it is unknown."""

    @property
    def reach(self) -> tuple[float, float]:
        """How far the interval goes below and above the mean; nowhere where it is unknown."""
        return (self.mean - self.low, self.high - self.mean) if self.over else (0.0, 0.0)

    def percent(self, sign: str = "") -> str:
        """A share in percent, with `sign` `+` a difference of two: `93.1 [91.0, 95.2]`; `93.1` without an interval."""
        bounds = f" [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]" if self.over else ""
        return f"{100 * self.mean:{sign}.1f}{bounds}"


def estimate(values: Sequence[float], images: np.ndarray | None = None, *, within: Limits) -> Estimate:
    """Student's t interval for the mean of independent values; of a single one the bootstrap interval over its images.

    Args:
        values: one a seed.
        images: (N,) whose mean the single value is: which test images were right, or a difference of two such. None
            where that is not known; of several values it is not looked at.
        within: what the values can be at all.
    """
    count, mean = len(values), float(np.mean(values))
    if count == 1 and images is not None and np.ptp(images) > 0:
        low, high = bootstrap_interval(images)
        return Estimate(mean=mean, low=low, high=high, p_value=math.nan, count=count, over=IMAGES)
    error = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    # Equal accuracies may still differ in their last bits.
    if error < 1e-12:
        return Estimate(mean=mean, low=-math.inf, high=math.inf, p_value=math.nan, count=count)
    # scipy.stats has the same in a hundred times the time, and a report may have thousands.
    reach = error * float(special.stdtrit(count - 1, (1.0 + CONFIDENCE) / 2.0))
    p_value = 2.0 * float(special.stdtr(count - 1, -abs(mean) / error))
    low, high = max(within[0], mean - reach), min(within[1], mean + reach)
    return Estimate(mean=mean, low=low, high=high, p_value=p_value, count=count, over=SEEDS)


def paired_difference(
    ours: Mapping[int, float],
    theirs: Mapping[int, float],
    our_hits: Mapping[int, np.ndarray] | None = None,
    their_hits: Mapping[int, np.ndarray] | None = None,
    *,
    within: Limits,
) -> Estimate:
    """The mean difference over the seeds that both have; the same seed means the same labelled images.

    Args:
        ours: by seed.
        theirs: by seed.
        our_hits: by seed as in `Hits`; with one seed the interval is over these, paired by image.
        their_hits: the same of theirs.
        within: what the values of either can be at all.
    """
    seeds, images = sorted(ours.keys() & theirs.keys()), None
    if len(seeds) == 1 and our_hits and their_hits and seeds[0] in our_hits and seeds[0] in their_hits:
        images = our_hits[seeds[0]].astype(np.int8) - their_hits[seeds[0]].astype(np.int8)
    least, most = within
    return estimate([ours[seed] - theirs[seed] for seed in seeds], images, within=(least - most, most - least))


Cell = tuple[str, str, str, str, str]
"""(arm, backbone, labels, phase, metric)."""
Cells = Mapping[Cell, Mapping[int, float]]
"""The values of one split, by what they measure and by seed."""
Hits = Mapping[Cell, Mapping[int, np.ndarray]]
"""Which test images the chosen models got right, by cell (of the accuracy as chosen) and seed: (N,) uint8, 1 for right.
Images stand in the order of the test split. Runs that did not keep them are absent."""


def by_cell(rows: Iterable[Row], *, split: str) -> dict[Cell, dict[int, float]]:
    """The values of one split by what they measure, and in it by seed."""
    cells: dict[Cell, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row.split == split:
            cells[row.arm, row.backbone, row.labels, row.phase, row.metric][row.seed] = row.value
    return dict(cells)


def _limits_of(cell: Cell) -> Limits:
    """All metrics of a split are shares but one."""
    return POSITIVE if cell[4] == "log_loss" else SHARE


def estimate_of(cell: Cell, cells: Cells, hits: Hits, beside: Cell | None = None) -> Estimate:
    """The mean of a cell; over the seeds that it shares with `beside`, where that is given."""
    shared = cells[cell] if beside is None else cells[beside]
    values, held = {seed: value for seed, value in cells[cell].items() if seed in shared}, hits.get(cell, {})
    images = next((held[seed] for seed in values if seed in held), None)
    return estimate(list(values.values()), images, within=_limits_of(cell))


def difference_of(ours: Cell, theirs: Cell, cells: Cells, hits: Hits) -> Estimate:
    """The paired difference of two cells."""
    return paired_difference(cells[ours], cells[theirs], hits.get(ours), hits.get(theirs), within=_limits_of(ours))


def summarize(rows: Sequence[Row], hits: Hits | None = None) -> list[dict[str, object]]:
    """`summary.csv`: each cell of the test split, one row for each baseline that it is compared with.

    The baselines are scratch on the same backbone, and ImageNet, whose backbone is named where it is another. The
    family of `p_value_holm` is every difference of accuracy as validation chose the phase: one for each arm, budget
    and baseline. Other phases and metrics look at the same runs again and have none.
    """
    cells, hits = by_cell(rows, split="test"), hits or {}
    summary: list[dict[str, object]] = []
    family: dict[int, float] = {}
    for cell, values in cells.items():
        found = estimate_of(cell, cells, hits)
        numbers = (*cell, found.count, found.mean, found.low, found.high)
        shared = dict.fromkeys(SUMMARY_COLUMNS, "") | dict(zip(SUMMARY_COLUMNS, numbers, strict=False))
        shared["interval_over"] = found.over
        comparisons = baselines_of(cell, cells)
        for name, key in comparisons:
            difference, theirs = difference_of(cell, key, cells, hits), cells[key]
            if cell[3:] == ("chosen", "accuracy"):
                family[len(summary)] = difference.p_value
            compared = {
                "baseline": name,
                "difference": difference.mean,
                "difference_low": difference.low,
                "difference_high": difference.high,
                "p_value": difference.p_value,
                "effect_size": effect_size([values[seed] - theirs[seed] for seed in values.keys() & theirs.keys()]),
                "num_pairs": difference.count,
            }
            summary.append(shared | compared)
        if not comparisons:
            summary.append(shared)
    for place, corrected in zip(family, holm(list(family.values())), strict=True):
        summary[place]["p_value_holm"] = corrected
    return summary


def baselines_of(cell: Cell, cells: Cells) -> list[tuple[str, Cell]]:
    """The cells that this one is compared with: those that have a seed in common with it."""
    arm, backbone, labels, phase, metric = cell
    found = []
    for baseline in ("scratch", "imagenet"):
        if arm in (baseline, "scratch"):
            continue
        same: Cell = (baseline, backbone, labels, phase, metric)
        if same in cells and cells[cell].keys() & cells[same].keys():
            found.append((baseline, same))
        elif baseline == "imagenet":
            # ImageNet weights exist for few small backbones, so another backbone's ImageNet is better than none.
            others = (
                key
                for key in cells
                if key[0] == baseline and key[2:] == cell[2:] and cells[cell].keys() & cells[key].keys()
            )
            found += [(f"{baseline} ({key[1]})", key) for key in itertools.islice(others, 1)]
    return found
