import math

import numpy as np
import pytest
from scipy import stats

from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.evaluation.comparison.statistical_power import least_by_images, least_difference, resolutions


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
    # The variances of the differences are 0.01 and 0, so that of both is 0.005.
    assert (few.labels, few.num_seeds) == ("5", 3)
    assert few.by_seeds == pytest.approx(least_difference(math.sqrt(0.005), 3, 3))
    assert (many.labels, many.num_seeds) == ("20", 1)
    assert math.isnan(many.by_seeds)
    assert many.by_images == pytest.approx(least_by_images(0.85, 100))
    assert resolutions(Results([row for row in rows if row.arm != "scratch"])) == []
