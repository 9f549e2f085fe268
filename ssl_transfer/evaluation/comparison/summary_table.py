"""Summarise a comparison: mean, interval, difference and p value of each cell (`summary.csv`)."""

import math

import numpy as np

from .estimates import unit_means
from .results import Results
from .significance import effect_size, holm

SUMMARY_COLUMNS = (
    *("arm", "backbone", "labels", "phase", "metric", "num_seeds", "mean", "low", "high"),
    *("baseline", "difference", "difference_low", "difference_high", "p_value", "p_value_holm"),
    *("effect_size", "interval_over", "num_pairs", "num_pretrainings", "crossed_low", "crossed_high"),
)


def summarize(results: Results) -> list[dict[str, object]]:
    """Summarise each test cell, one line for each baseline that it is compared with.

    The baselines are scratch on the same backbone, and imagenet, whose backbone is named where it is another. The
    family of `p_value_holm` is every difference of the chosen primary metric: one for each arm, budget and baseline.
    Other phases and metrics measure the same runs again and have no corrected p value. `interval_over` is the sample of
    low and high. `crossed_low` and `crossed_high` are the interval of the difference over runs and test images, of the
    chosen primary metric; empty where it is unknown.
    """
    summary: list[dict[str, object]] = []
    family: dict[int, float] = {}
    for cell, values in results.test.items():
        found = results.estimate(cell)
        numbers = (*cell, found.count, found.mean, found.low, found.high)
        shared = dict.fromkeys(SUMMARY_COLUMNS, "") | dict(zip(SUMMARY_COLUMNS, numbers, strict=False))
        shared |= {"interval_over": found.over, "num_pretrainings": found.pretrainings}
        is_primary = cell[3:] == ("chosen", results.metric.name)
        baselines = results.baselines(cell)
        for name, key in baselines:
            difference, theirs = results.difference(cell, key), results.test[key]
            crossed = results.crossed_difference(cell, key) if is_primary else None
            if is_primary:
                family[len(summary)] = difference.p_value
            seeds = sorted(values.keys() & theirs.keys())
            paired = np.array([values[seed] - theirs[seed] for seed in seeds])
            compared = {
                "baseline": name,
                "difference": difference.mean,
                "difference_low": difference.low,
                "difference_high": difference.high,
                "p_value": difference.p_value,
                "effect_size": effect_size(unit_means(paired, results.pretrainings_of(seeds, cell, key)).tolist()),
                "num_pairs": difference.count,
                "crossed_low": "" if crossed is None else crossed.low,
                "crossed_high": "" if crossed is None else crossed.high,
            }
            summary.append(shared | compared)
        if not baselines:
            summary.append(shared)
    for place, corrected in zip(family, holm(list(family.values())), strict=True):
        summary[place]["p_value_holm"] = corrected
    return summary


def summary_numbers(results: Results) -> dict[str, float]:
    """Return the known numbers of `summary.csv` by name.

    A name is the key and the column: `simclr/resnet18/5/chosen/accuracy/mean`, `.../difference to scratch`.
    """
    baseline = SUMMARY_COLUMNS.index("baseline")
    numbers = {}
    for line in summarize(results):
        key = [str(line[column]) for column in SUMMARY_COLUMNS[:5]]
        for column in SUMMARY_COLUMNS[5:]:
            value = line[column]
            against = f" to {line['baseline']}" if SUMMARY_COLUMNS.index(column) > baseline else ""
            if isinstance(value, (int, float)) and math.isfinite(value):
                numbers["/".join([*key, f"{column}{against}"])] = float(value)
    return numbers
