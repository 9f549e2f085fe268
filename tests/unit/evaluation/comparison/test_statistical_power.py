import math

import numpy as np
import pytest
from scipy import stats

from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.evaluation.comparison.statistical_power import (
    MOST_UNITS,
    extra_minutes,
    least_by_images,
    least_difference,
    resolutions,
    units_needed,
)


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
def test_the_least_difference_is_found_in_four_of_five(seeds):
    generator = np.random.default_rng(seeds)
    draws = generator.normal(least_difference(1.0, seeds), 1.0, (20000, seeds))
    assert (stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.015)


def test_many_comparisons_need_larger_differences():
    draws = np.random.default_rng(0).normal(least_difference(1.0, 5, 12), 1.0, (20000, 5))
    assert (stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05 / 12).mean() == pytest.approx(0.8, abs=0.015)


def test_no_mistake_among_few_is_no_certainty():
    assert least_by_images(1.0, 9) > 0.4
    assert least_by_images(1.0, 9) == least_by_images(0.0, 9)


def test_with_many_seeds_it_is_that_of_the_normal_distribution():
    expected = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert least_difference(2.0, 5000) * math.sqrt(5000) == pytest.approx(2.0 * expected, rel=1e-3)


def test_by_images():
    # (1.960 + 0.842) sqrt(2 * 0.5 * 0.5 / 200); 102 of 204 are right.
    assert least_by_images(0.5, 200) == pytest.approx(2.8016 * 0.05, abs=1e-4)
    generator = np.random.default_rng(0)
    difference = least_by_images(0.8, 500)
    first, second = (
        generator.binomial(500, share, 20000) / 500 for share in (0.8 + difference / 2, 0.8 - difference / 2)
    )
    spread = np.sqrt((first * (1 - first) + second * (1 - second)) / 500)
    assert ((first - second) / spread > stats.norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.015)


def rows_of(values: dict[tuple[str, str], list[float]]) -> list[Row]:
    return [
        Row(
            arm=arm,
            backbone="net",
            labels=labels,
            seed=seed,
            phase="chosen",
            split="test",
            metric="accuracy",
            value=value,
        )
        for (arm, labels), found in values.items()
        for seed, value in enumerate(found)
    ]


def test_a_resolution_a_budget():
    rows = rows_of(
        {
            ("scratch", "5"): [0.5, 0.5, 0.5],
            ("simclr", "5"): [0.6, 0.7, 0.8],
            ("mae", "5"): [0.5, 0.5, 0.5],
            ("scratch", "20"): [0.8],
            ("simclr", "20"): [0.9],
        }
    )
    few, many = resolutions(Results(rows, description={"num_test": 100}))
    # The differences of simclr deviate by 0.1, those of mae not at all.
    assert (few.labels, few.num_units, few.pretrainings) == ("5", 3, 3)
    assert few.by_runs == pytest.approx(least_difference(0.1, 3, 3))
    assert (many.labels, many.num_units, many.pretrainings) == ("20", 1, 1)
    assert math.isnan(many.by_runs)
    assert many.by_images == pytest.approx(least_by_images(0.85, 100))
    assert resolutions(Results([row for row in rows if row.arm != "scratch"])) == []


def test_a_resolution_counts_pretrainings():
    """Four seeds on two pretrainings are two units, with differences of 0.2 and 0.3."""
    rows = rows_of({("scratch", "5"): [0.5] * 4, ("simclr", "5"): [0.6, 0.7, 0.8, 0.9]})
    description = {"num_test": 100, "seeds": [0, 1, 2, 3], "pretrainings": [0, 1, 0, 1]}
    (found,) = resolutions(Results(rows, description=description))
    assert (found.num_units, found.pretrainings) == (2, 2)
    assert found.by_runs == pytest.approx(least_difference(float(np.std([0.2, 0.3], ddof=1)), 2))
    (found,) = resolutions(Results(rows, description=description | {"pretrainings": [0, 0, 0, 0]}))
    assert (found.num_units, found.pretrainings) == (4, 1)


@pytest.mark.parametrize(("difference", "num_compared"), [(0.5, 1), (1.0, 1), (1.0, 12), (3.0, 4)])
def test_fewer_units_do_not_show_the_difference(difference, num_compared):
    found = units_needed(1.0, difference, num_compared)
    assert found is not None
    assert least_difference(1.0, found, num_compared) <= difference < least_difference(1.0, found - 1, num_compared)


def test_a_large_difference_needs_two_units_and_a_tiny_one_too_many():
    assert units_needed(0.01, 1.0) == 2
    assert units_needed(1.0, least_difference(1.0, MOST_UNITS)) == MOST_UNITS
    assert units_needed(1.0, 0.99 * least_difference(1.0, MOST_UNITS)) is None


def with_costs(pretrainings: list[int], arms: dict[str, float]) -> Results:
    """Three seeds at two budgets: a transfer takes 10 s, a pretraining what `arms` has."""
    rows = [
        Row(
            arm=arm,
            backbone="net",
            labels=labels,
            seed=seed,
            phase="chosen",
            split="train",
            metric=metric,
            value=value,
        )
        for arm, seconds in arms.items()
        for labels in ("5", "20")
        for seed in range(3)
        for metric, value in (("transfer_seconds", 10.0), ("pretrain_seconds", seconds))
    ]
    return Results(rows, description={"seeds": [0, 1, 2], "pretrainings": pretrainings})


@pytest.mark.parametrize(
    ("pretrainings", "arms", "wanted", "seconds"),
    [
        # Two more seeds at two budgets, of one network.
        ([0, 0, 0], {"simclr": 60.0}, (1, 5), 2 * 2 * 10),
        # A pretraining for each of five seeds: only the first run of each budget stays.
        ([0, 0, 0], {"simclr": 60.0}, (5, 5), 4 * 60 + 2 * 4 * 10),
        ([0, 1, 2], {"simclr": 60.0}, (5, 5), 2 * 60 + 2 * 2 * 10),
        # Without pretraining every run stays.
        ([0, 0, 0], {"scratch": 0.0, "simclr": 60.0}, (5, 5), 4 * 60 + 2 * (4 + 2) * 10),
        # A finished run has one pretraining, whatever the number of seeds.
        ([0, 1, 2], {"run:mine": 60.0}, (5, 5), 2 * 2 * 10),
    ],
)
def test_the_minutes_of_more_runs(pretrainings, arms, wanted, seconds):
    found = extra_minutes(with_costs(pretrainings, arms), pretrainings=wanted[0], seeds=wanted[1])
    assert found == pytest.approx(seconds / 60.0)


def test_the_minutes_are_unknown_without_costs_or_more_runs():
    assert extra_minutes(Results([]), pretrainings=5, seeds=5) is None
    assert extra_minutes(with_costs([0, 1, 2], {"simclr": 60.0}), pretrainings=3, seeds=3) is None
