"""Compute the least difference that a comparison can show, by its seeds and by its test images.

A two-sided paired t test at 5 % finds a true difference d, from which single seeds deviate by s, with the probability
that a noncentral t variable of n - 1 degrees of freedom and noncentrality d sqrt(n) / s exceeds the critical value
(Cohen, "Statistical power analysis for the behavioral sciences", 2nd edition 1988, chapter 2). The least difference is
the d that is found in four of five comparisons, Cohen's convention. The level is 5 % divided by the number of
comparisons, the first step of Holm's correction, which the verdict uses.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from .results import Results

POWER = 0.8
_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Least differences of accuracy, 0..1, that the comparison can show at one budget."""

    labels: str
    num_seeds: int
    by_seeds: float
    """To scratch, with this number of seeds; nan where the deviation of seeds is unknown."""
    by_images: float
    """Of two models with independent mistakes, with this number of test images; less where both fail on the same
    images."""


def least_difference(deviation: float, num_seeds: int, num_compared: int = 1) -> float:
    """Compute the least true difference that is found with probability `POWER`.

    Args:
        deviation: of the paired differences of single seeds, above 0.
        num_seeds: two or more.
        num_compared: comparisons, which divide the level.
    """
    freedom = num_seeds - 1
    critical = float(stats.t.ppf(1.0 - _LEVEL / num_compared / 2.0, freedom))

    def missing(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, freedom, noncentrality)) - POWER

    # It lies at 1.3 times the critical value with one degree of freedom, at 1.4 times with many.
    noncentrality = optimize.brentq(missing, 0.0, 4.0 * critical)
    return float(noncentrality) * deviation / math.sqrt(num_seeds)


def least_by_images(accuracy: float, num_images: int) -> float:
    """Compute the least difference of two models of this accuracy with independent mistakes, by normal approximation.

    Two correct and two wrong images are added (Agresti and Coull 1998): no mistake among few images is no certainty.
    """
    factor = float(stats.norm.ppf(1.0 - _LEVEL / 2.0) + stats.norm.ppf(POWER))
    accuracy = (accuracy * num_images + 2.0) / (num_images + 4.0)
    return factor * math.sqrt(2.0 * accuracy * (1.0 - accuracy) / num_images)


def resolutions(results: Results) -> list[Resolution]:
    """Compute the least differences of each budget at which scratch stands beside another arm, in the table's order.

    The deviation is that of the differences of every arm to scratch on its backbone, pooled over arms.
    """
    differences: dict[str, list[list[float]]] = defaultdict(list)
    accuracies: dict[str, list[float]] = defaultdict(list)
    for (arm, backbone, labels, phase, metric), ours in results.test.items():
        theirs = results.test.get(("scratch", backbone, labels, phase, metric), {})
        shared = sorted(ours.keys() & theirs.keys())
        if (phase, metric) == ("chosen", "accuracy") and arm != "scratch" and shared:
            differences[labels].append([ours[seed] - theirs[seed] for seed in shared])
            accuracies[labels] += [*ours.values(), *theirs.values()]
    num_compared = sum(len(arms) for arms in differences.values())
    found = []
    for labels, arms in differences.items():
        seeds = min(len(values) for values in arms)
        deviation = math.sqrt(np.mean([np.var(values, ddof=1) for values in arms])) if seeds > 1 else 0.0
        found.append(
            Resolution(
                labels=labels,
                num_seeds=seeds,
                by_seeds=least_difference(deviation, seeds, num_compared) if deviation > 1e-12 else math.nan,
                by_images=least_by_images(float(np.mean(accuracies[labels])), results.description["num_test"]),
            )
        )
    return found
