"""Estimate means over seeds, and differences paired by seed, with 95 % intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from ssl_transfer.evaluation.metric_properties import Limits

from .significance import CONFIDENCE, bootstrap_interval

SEEDS, IMAGES = "seeds", "test images"
"""Samples of an interval."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with its 95 % interval; (-inf, inf) where the interval is unknown.

    No interval exceeds the limits of the metric. It is unknown where all values agree: a few runs on a few hundred test
    images can agree by chance. With one seed it is unknown unless the correct test images were stored.
    """

    mean: float
    low: float
    high: float
    p_value: float
    """Two-sided t-test of mean 0 over draws of labels; nan with one seed and where all seeds agree."""
    count: int
    """Seeds."""
    over: str = ""
    """Sample of the interval: `SEEDS`, or `IMAGES` of one seed; empty where the interval is unknown."""

    @property
    def reach(self) -> tuple[float, float]:
        """Return the extent of the interval below and above the mean; zeros where it is unknown."""
        return (self.mean - self.low, self.high - self.mean) if self.over else (0.0, 0.0)

    def percent(self, sign: str = "") -> str:
        """Format a share in percent: `93.1 [91.0, 95.2]`; with `sign` `+` a difference of two shares."""
        bounds = f" [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]" if self.over else ""
        return f"{100 * self.mean:{sign}.1f}{bounds}"


def estimate(values: Sequence[float], images: np.ndarray | None = None, *, within: Limits) -> Estimate:
    """Estimate the mean of independent values with Student's t; of one value with a bootstrap over its images.

    Args:
        values: one a seed.
        images: (N,) terms whose mean the single value is: correct test images, or differences of two such. None where
            they are unknown; ignored with several values.
        within: limits of the metric.
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
    """Estimate the mean difference over shared seeds; one seed draws the same labelled images for both.

    Args:
        ours: values by seed.
        theirs: values by seed.
        our_hits: correct test images by seed; with one seed the interval is over these, paired by image.
        their_hits: the same of `theirs`.
        within: limits of the metric, before subtraction.
    """
    seeds, images = sorted(ours.keys() & theirs.keys()), None
    if len(seeds) == 1 and our_hits and their_hits and seeds[0] in our_hits and seeds[0] in their_hits:
        images = our_hits[seeds[0]].astype(np.int8) - their_hits[seeds[0]].astype(np.int8)
    least, most = within
    return estimate([ours[seed] - theirs[seed] for seed in seeds], images, within=(least - most, most - least))
