"""Compute a bootstrap over images, Holm's correction and an effect size on plain arrays.

- Bootstrap (Efron 1979): the same number of images drawn again with replacement, many times; the 2.5th and 97.5th
  percentile of the means. An image counts 0 or 1, or -1, 0, 1 as a difference, so a draw of images is a multinomial
  draw of the counts of these values. `scipy.stats.bootstrap` gives the same interval from single images, in 0.1 s for
  450 images and 1.5 s for 10,000, against 0.006 s here; a report may have thousands.
- Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979): of m
  p values in rising order the i-th becomes max over j <= i of min(1, (m - j + 1) p_j). Under any dependence, the
  probability that any true null hypothesis falls below a level is at most that level.
- Effect size: the mean of paired differences over their deviation, times the correction of Hedges, "Distribution theory
  for Glass's estimator of effect size and related estimators", Journal of Educational Statistics 6 (1981), without
  which few seeds make it too large: gamma(d / 2) / (sqrt(d / 2) gamma((d - 1) / 2)) with d = units - 1.

Shapes: N images, S seeds.
"""

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 9999


def bootstrap_interval(images: np.ndarray) -> tuple[float, float]:
    """Compute the 95 % interval of the mean over images: the images are the sample, the model is given.

    Args:
        images: (N,) a number each, of few different values. Equal images give the same digits.
    """
    values, counts = np.unique(images, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(images), counts / len(images), size=RESAMPLES)
    outside = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(draws @ values / len(images), [outside, 1.0 - outside])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p values of a family. Nan stays nan and counts: a comparison that can reject nothing."""
    given = np.asarray(p_values, dtype=float)
    # Nan is sorted last: it takes the smallest factors.
    order = np.argsort(given)
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.arange(len(given), 0, -1) * given[order]))
    return corrected.tolist()


def effect_size(differences: Sequence[float]) -> float:
    """Compute Hedges' corrected effect size of (S,) paired differences.

    Nan below three seeds, where no correction makes it unbiased, and where all differences agree.
    """
    freedom = len(differences) - 1
    deviation = float(np.std(differences, ddof=1)) if freedom > 1 else 0.0
    if deviation < 1e-12:
        return math.nan
    correction = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)) / math.sqrt(freedom / 2)
    return correction * float(np.mean(differences)) / deviation
