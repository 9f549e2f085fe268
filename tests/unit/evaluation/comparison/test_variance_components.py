import math

import numpy as np
import pytest
from scipy import stats

from ssl_transfer.evaluation.comparison.estimates import estimate
from ssl_transfer.evaluation.comparison.variance_components import crossed_estimate

WITHIN = (-1.0, 1.0)


def test_units_alone_give_the_t_interval_of_units():
    """Every image has the same difference: images add nothing."""
    units = np.array([0.01, 0.03, 0.08, 0.02])
    found = crossed_estimate(np.tile(units[:, None], 50), within=WITHIN)
    alone = estimate(units.tolist(), within=WITHIN)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((alone.mean, alone.low, alone.high))
    assert found.p_value == pytest.approx(alone.p_value)
    assert (found.count, found.pretrainings, found.over) == (4, 0, "seeds and test images")
    assert not found.over_runs


def test_equal_units_give_no_interval():
    """Every unit has the same difference at an image: nothing is known about other units."""
    images = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], p=[0.05, 0.8, 0.15], size=400)
    assert crossed_estimate(np.tile(images, (5, 1)), within=WITHIN) is None


def test_noise_on_images_nears_the_interval_of_images():
    """Units differ by noise alone, which their images average out."""
    rng = np.random.default_rng(0)
    images = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=2000)
    found = crossed_estimate(images + 0.3 * rng.normal(size=(5, 2000)), within=WITHIN)
    assert found is not None
    reach = 1.96 * images.std() / math.sqrt(2000)
    assert found.high - found.mean == pytest.approx(reach, rel=0.1)


def test_the_variance_is_the_sum_of_its_components():
    """The mean squares of a two-way layout without replication, by their sums of squares."""
    differences = np.random.default_rng(0).normal(size=(5, 4)) + np.array([0.0, 1.0, 4.0, 2.0])
    found = crossed_estimate(differences, within=(-math.inf, math.inf))
    units, images = differences.mean(axis=1), differences.mean(axis=0)
    of_units, of_images = units.var(ddof=1) / 5, images.var(ddof=1) / 4
    residual = differences - units[:, None] - images + differences.mean()
    of_noise = np.square(residual).sum() / (4 * 3) / (5 * 4)
    variance = max(of_units + of_images - of_noise, of_units, of_images)
    freedom = variance**2 / (of_units**2 / 4 + of_images**2 / 3 + of_noise**2 / 12)
    assert found is not None
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(variance))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(found.mean) / math.sqrt(variance), freedom))


def test_it_is_never_shorter_than_the_interval_over_units():
    """Two units: one degree of freedom, whatever the images add."""
    differences = np.random.default_rng(0).normal(size=(2, 400)) + np.array([[0.1], [0.3]])
    found = crossed_estimate(differences, within=(-math.inf, math.inf))
    alone = estimate(differences.mean(axis=1).tolist(), within=(-math.inf, math.inf))
    assert found is not None
    assert (found.low, found.high, found.p_value) == pytest.approx((alone.low, alone.high, alone.p_value))


def test_pretrainings_are_the_units_of_nested_seeds():
    differences = np.random.default_rng(0).normal(size=(4, 30))
    found = crossed_estimate(differences, within=(-math.inf, math.inf), pretrainings=[7, 2, 7, 2])
    means = np.stack([differences[[0, 2]].mean(axis=0), differences[[1, 3]].mean(axis=0)])
    alone = crossed_estimate(means, within=(-math.inf, math.inf))
    assert found is not None
    assert alone is not None
    assert (found.mean, found.low, found.high) == pytest.approx((alone.mean, alone.low, alone.high))
    assert (found.count, found.pretrainings, found.over) == (4, 2, "pretrainings and test images")


def test_one_network_has_its_seeds_as_units():
    differences = np.random.default_rng(0).normal(size=(3, 30))
    found = crossed_estimate(differences, within=(-math.inf, math.inf), pretrainings=[0, 0, 0])
    alone = crossed_estimate(differences, within=(-math.inf, math.inf))
    assert found is not None
    assert alone is not None
    assert (found.low, found.high) == (alone.low, alone.high)
    assert (found.pretrainings, found.over) == (1, "seeds and test images")


def test_no_interval_exceeds_the_limits():
    differences = np.array([[1.0, 1.0, 1.0, 0.0], [-1.0, 0.0, 1.0, 1.0]])
    found = crossed_estimate(differences, within=WITHIN)
    assert found is not None
    assert (found.low, found.high) == WITHIN


@pytest.mark.parametrize(
    "differences", [np.ones((1, 9)), np.arange(9.0)[None], np.arange(3.0)[:, None], np.zeros((3, 9)), np.ones((3, 9))]
)
def test_without_two_units_two_images_or_variance_it_is_unknown(differences):
    assert crossed_estimate(differences, within=(-math.inf, math.inf)) is None
