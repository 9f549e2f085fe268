"""Compute the least difference that a comparison can show, by its runs and by its test images.

A two-sided paired t test at 5 % finds a true difference d, from which single units (pretrainings, or seeds of one
network) deviate by s, with the probability that a noncentral t variable of n - 1 degrees of freedom and noncentrality
d sqrt(n) / s exceeds the critical value
(Cohen, "Statistical power analysis for the behavioral sciences", 2nd edition 1988, chapter 2). The least difference is
the d that is found in four of five comparisons, Cohen's convention. The level is 5 % divided by the number of
comparisons, the first step of Holm's correction, which the verdict uses.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from ssl_transfer.models.init_names import is_pretrained, is_run

from .estimates import Estimate
from .results import Results

POWER = 0.8
MOST_UNITS = 1000
"""Largest number of units that `units_needed` returns."""
_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Least differences of the primary metric that the comparison can show at one budget."""

    labels: str
    num_units: int
    """Pretrainings of the arm, or seeds where its seeds share one network."""
    pretrainings: int
    """Pretrainings of the arm; 1 where it is a single network."""
    by_runs: float
    """Difference of the arm that needs the largest one to scratch; nan where its deviation is unknown."""
    by_images: float
    """Of two models with independent mistakes, with this number of test images; less where both fail on the same
    images."""


def least_difference(deviation: float, num_units: int, num_compared: int = 1) -> float:
    """Compute the least true difference that is found with probability `POWER`.

    Args:
        deviation: of the paired differences of single units, above 0.
        num_units: two or more.
        num_compared: comparisons, which divide the level.
    """
    freedom = num_units - 1
    critical = float(stats.t.ppf(1.0 - _LEVEL / num_compared / 2.0, freedom))

    def missing(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, freedom, noncentrality)) - POWER

    # It lies at 1.3 times the critical value with one degree of freedom, at 1.4 times with many.
    noncentrality = optimize.brentq(missing, 0.0, 4.0 * critical)
    return float(noncentrality) * deviation / math.sqrt(num_units)


def least_by_images(accuracy: float, num_images: int) -> float:
    """Compute the least difference of two models of this accuracy with independent mistakes, by normal approximation.

    Two correct and two wrong images are added (Agresti and Coull 1998): no mistake among few images is no certainty.
    """
    factor = float(stats.norm.ppf(1.0 - _LEVEL / 2.0) + stats.norm.ppf(POWER))
    accuracy = (accuracy * num_images + 2.0) / (num_images + 4.0)
    return factor * math.sqrt(2.0 * accuracy * (1.0 - accuracy) / num_images)


def units_needed(deviation: float, difference: float, num_compared: int = 1) -> int | None:
    """Compute the least number of units with which a true difference is found with probability `POWER`.

    Args:
        deviation: of the paired differences of single units, above 0.
        difference: above 0.
        num_compared: comparisons, which divide the level.

    Returns:
        The number; None above `MOST_UNITS`.
    """
    low, high = 2, MOST_UNITS
    if least_difference(deviation, high, num_compared) > difference:
        return None
    while low < high:
        middle = (low + high) // 2
        if least_difference(deviation, middle, num_compared) <= difference:
            high = middle
        else:
            low = middle + 1
    return low


def resolutions(results: Results) -> list[Resolution]:
    """Compute the least differences of each budget at which scratch stands beside another arm, in the table's order.

    Each is that of the arm that needs the largest one, with its own deviation and units. Only arms that were pretrained
    here count, where there are some. It plans the number of runs; no interval depends on it.
    """
    differences: dict[str, list[tuple[str, Estimate]]] = defaultdict(list)
    values: dict[str, list[float]] = defaultdict(list)
    for cell, ours in results.test.items():
        scratch = ("scratch", *cell[1:])
        if cell[3:] == ("chosen", results.metric.name) and cell[0] != "scratch" and results.share_seed(cell, scratch):
            differences[cell[2]].append((cell[0], results.difference(cell, scratch)))
            values[cell[2]] += [*ours.values(), *results.test[scratch].values()]
    num_compared = sum(len(arms) for arms in differences.values())
    found = []
    for labels, arms in differences.items():
        here = [one for arm, one in arms if is_pretrained(arm) and not is_run(arm)]
        coarsest = max(here or [one for _, one in arms], key=lambda one: _least(one, num_compared))
        found.append(
            Resolution(
                labels=labels,
                num_units=coarsest.units,
                pretrainings=coarsest.pretrainings,
                by_runs=_least(coarsest, num_compared) if coarsest.deviation > 1e-12 else math.nan,
                by_images=least_by_images(float(np.mean(values[labels])), results.description["num_test"]),
            )
        )
    return found


def _least(difference: Estimate, num_compared: int) -> float:
    """Compute the least difference that an arm's runs find; 0 where their deviation is unknown or zero."""
    if not difference.deviation > 1e-12:
        return 0.0
    return least_difference(difference.deviation, difference.units, num_compared)


def extra_minutes(results: Results, *, pretrainings: int, seeds: int) -> float | None:
    """Estimate the minutes that more runs of the same comparison take, from the seconds of its finished runs.

    Args:
        results: of the comparison.
        pretrainings: wanted of each method; the first of each is there.
        seeds: wanted of each arm and budget.

    Returns:
        None where the seconds are unknown.
    """
    total = 0.0
    for cell, seconds in results.train.items():
        arm, metric = cell[0], cell[4]
        if metric == "transfer_seconds":
            nested = results.pretrainings(arm)
            there = len(seconds) if nested is None or is_run(arm) else len(set(nested.values()))
            # A run of a seed that gets a pretraining of its own is repeated.
            kept = len(seconds) if there >= pretrainings else there
            total += max(0, seeds - kept) * float(np.mean(list(seconds.values())))
        elif metric == "pretrain_seconds" and cell[2] == results.budgets[0] and not is_run(arm):
            nested = results.pretrainings(arm)
            there = len(set(nested.values())) if nested else pretrainings
            total += max(0, pretrainings - there) * float(np.mean(list(seconds.values())))
    return total / 60.0 if total > 0.0 else None
