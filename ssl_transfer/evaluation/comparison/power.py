"""How small a difference a comparison could show: by its seeds, and by its test images.

A two-sided paired t test at 5 % finds a true difference d, of which single seeds deviate by s, with the probability
that a noncentral t variable of n - 1 degrees of freedom and noncentrality d sqrt(n) / s exceeds the critical value
(Cohen, "Statistical power analysis for the behavioral sciences", 2nd edition 1988, chapter 2). The least difference is
the d that is found in four of five comparisons, Cohen's convention. The level is 5 % divided by the number of
comparisons that are made, the first step of Holm's correction, by which the sentence of a report goes.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from .estimates import Row, by_cell

POWER = 0.8
_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What the comparison at one budget could show."""

    labels: str
    num_seeds: int
    by_seeds: float
    """The least difference of accuracy to scratch, 0..1, that so many seeds show; nan where their spread is unknown."""
    by_images: float
    """The least difference of two models that so many test images show, where their mistakes have nothing in common;
    less where both fail on the same images."""


def least_difference(deviation: float, num_seeds: int, num_compared: int = 1) -> float:
    """The least true difference that is found with the probability `POWER`.

    Args:
        deviation: of the paired differences of single seeds, above 0.
        num_seeds: two or more.
        num_compared: comparisons that the level is divided by.
    """
    freedom = num_seeds - 1
    critical = float(stats.t.ppf(1.0 - _LEVEL / num_compared / 2.0, freedom))

    def missing(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, freedom, noncentrality)) - POWER

    # It lies at 1.3 times the critical value with one degree of freedom, at 1.4 times with many.
    noncentrality = optimize.brentq(missing, 0.0, 4.0 * critical)
    return float(noncentrality) * deviation / math.sqrt(num_seeds)


def least_by_images(accuracy: float, num_images: int) -> float:
    """The same for two models of about this accuracy whose mistakes are independent, by the normal approximation.

    Two images more are taken to be right and two wrong (Agresti and Coull 1998): no mistake among few is no certainty.
    """
    factor = float(stats.norm.ppf(1.0 - _LEVEL / 2.0) + stats.norm.ppf(POWER))
    accuracy = (accuracy * num_images + 2.0) / (num_images + 4.0)
    return factor * math.sqrt(2.0 * accuracy * (1.0 - accuracy) / num_images)


def resolutions(rows: Sequence[Row], *, num_test: int) -> list[Resolution]:
    """One for each budget at which scratch stands beside something, in the order of the rows.

    The deviation is that of the differences of every arm to scratch on its backbone, all arms taken together.
    """
    cells = by_cell(rows, split="test")
    differences: dict[str, list[list[float]]] = defaultdict(list)
    accuracies: dict[str, list[float]] = defaultdict(list)
    for (arm, backbone, labels, phase, metric), ours in cells.items():
        theirs = cells.get(("scratch", backbone, labels, phase, metric), {})
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
                by_images=least_by_images(float(np.mean(accuracies[labels])), num_test),
            )
        )
    return found
