"""Estimate means over seeds, and differences paired by seed, with 95 % intervals.

Seeds are nested in pretrainings: runs that start from one pretrained network share its luck. With several pretrainings
the sample is their means, one a pretraining: Student's t with (pretrainings - 1) degrees of freedom, the exact analysis
of a balanced nested design (Searle, Casella and McCulloch, "Variance Components", 1992, chapter 3). With one
pretraining the sample is the seeds, and the interval holds for that network alone. docs/statistics.md explains it.

Shapes: S seeds, U units (pretrainings or seeds), N test images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from ssl_transfer.evaluation.metric_properties import Limits

from .significance import CONFIDENCE, bootstrap_interval

SEEDS, PRETRAININGS, IMAGES = "seeds", "pretrainings", "test images"
"""Samples of an interval."""
RUNS = (SEEDS, PRETRAININGS)
"""Samples of an interval over runs."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval; (-inf, inf) where the interval is unknown.

    No interval exceeds the limits of the metric. It is unknown where all units agree: a few runs on a few hundred test
    images can agree by chance. With one seed it is unknown unless the correct test images were stored.
    """

    mean: float
    """Over units: a pretraining counts once, whatever its number of seeds."""
    low: float
    high: float
    p_value: float
    """Two-sided t-test of mean 0 over units; nan with one unit and where all units agree."""
    count: int
    """Seeds."""
    pretrainings: int = 0
    """Pretrainings of the arm; 1 where it is a single pretrained network, 0 where it was not pretrained by a method."""
    deviation: float = math.nan
    """Of single units; nan with one."""
    over: str = ""
    """Sample of the interval: `SEEDS`, `PRETRAININGS`, or `IMAGES` of one seed; empty where the interval is unknown."""

    @property
    def units(self) -> int:
        """Return the number of independent values: pretrainings, or seeds of one network."""
        return self.pretrainings if self.pretrainings > 1 else self.count

    @property
    def over_runs(self) -> bool:
        """Return whether the interval covers other runs: seeds or pretrainings."""
        return self.over in RUNS

    @property
    def reach(self) -> tuple[float, float]:
        """Return the extent of the interval below and above the mean; zeros where it is unknown."""
        return (self.mean - self.low, self.high - self.mean) if self.over else (0.0, 0.0)

    def percent(self, sign: str = "") -> str:
        """Format a share in percent: `93.1 [91.0, 95.2]`; with `sign` `+` a difference of two shares."""
        bounds = f" [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]" if self.over else ""
        return f"{100 * self.mean:{sign}.1f}{bounds}"


def unit_means(values: np.ndarray, pretrainings: Sequence[int] | None) -> np.ndarray:
    """Average the values of each pretraining; of one network, or of none, each value is a unit.

    Args:
        values: (S, ...) one entry a seed.
        pretrainings: of each seed; None where the seeds share no pretraining.

    Returns:
        (U, ...) means.
    """
    if pretrainings is None or len(set(pretrainings)) < 2:
        return values
    groups = np.asarray(pretrainings)
    return np.stack([values[groups == group].mean(axis=0) for group in dict.fromkeys(pretrainings)])


def sample_of(pretrainings: Sequence[int] | None) -> str:
    """Return the sample of an interval over runs: `PRETRAININGS`, or `SEEDS` of one network."""
    return PRETRAININGS if pretrainings is not None and len(set(pretrainings)) > 1 else SEEDS


def estimate(
    values: Sequence[float],
    images: np.ndarray | None = None,
    *,
    within: Limits,
    pretrainings: Sequence[int] | None = None,
) -> Estimate:
    """Estimate a mean with Student's t over units; of one value with a bootstrap over its images.

    Args:
        values: one a seed.
        images: (N,) terms whose mean the single value is: correct test images, or differences of two such. None where
            they are unknown; ignored with several values.
        within: limits of the metric.
        pretrainings: of each seed; None where the seeds share no pretraining.
    """
    units = unit_means(np.asarray(values, dtype=float), pretrainings)
    count, mean = len(units), float(np.mean(units))
    deviation = float(np.std(units, ddof=1)) if count > 1 else math.nan
    num_pretrainings = 0 if pretrainings is None else len(set(pretrainings))
    shared: dict[str, Any] = {
        "mean": mean,
        "count": len(values),
        "pretrainings": num_pretrainings,
        "deviation": deviation,
    }
    if len(values) == 1 and images is not None and np.ptp(images) > 0:
        low, high = bootstrap_interval(images)
        return Estimate(**shared, low=low, high=high, p_value=math.nan, over=IMAGES)
    error = deviation / math.sqrt(count)
    # Equal accuracies may still differ in their last bits.
    if count < 2 or error < 1e-12:
        return Estimate(**shared, low=-math.inf, high=math.inf, p_value=math.nan)
    # scipy.stats has the same in a hundred times the time, and a report may have thousands.
    reach = error * float(special.stdtrit(count - 1, (1.0 + CONFIDENCE) / 2.0))
    p_value = 2.0 * float(special.stdtr(count - 1, -abs(mean) / error))
    low, high = max(within[0], mean - reach), min(within[1], mean + reach)
    return Estimate(**shared, low=low, high=high, p_value=p_value, over=sample_of(pretrainings))


def paired_difference(
    ours: Mapping[int, float],
    theirs: Mapping[int, float],
    our_hits: Mapping[int, np.ndarray] | None = None,
    their_hits: Mapping[int, np.ndarray] | None = None,
    *,
    within: Limits,
    pretrainings: Mapping[int, int] | None = None,
) -> Estimate:
    """Estimate the mean difference over shared seeds; one seed draws the same labelled images for both.

    Args:
        ours: values by seed.
        theirs: values by seed.
        our_hits: correct test images by seed; with one seed the interval is over these, paired by image.
        their_hits: the same of `theirs`.
        within: limits of the metric, before subtraction.
        pretrainings: pretraining of either side by seed; None where the seeds share none.
    """
    seeds, images = sorted(ours.keys() & theirs.keys()), None
    if len(seeds) == 1 and our_hits and their_hits and seeds[0] in our_hits and seeds[0] in their_hits:
        images = our_hits[seeds[0]].astype(np.int8) - their_hits[seeds[0]].astype(np.int8)
    least, most = within
    return estimate(
        [ours[seed] - theirs[seed] for seed in seeds],
        images,
        within=(least - most, most - least),
        pretrainings=None if pretrainings is None else [pretrainings[seed] for seed in seeds],
    )
