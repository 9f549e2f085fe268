import math

import numpy as np
import pytest
from scipy import stats

from ssl_transfer.evaluation.comparison.significance import bootstrap_interval, effect_size, holm


def test_holm_by_its_definition():
    """Each p value against the smallest of its family that were not rejected before it: by steps, at any level."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 9):
        p_values = rng.uniform(size=size) ** 3
        corrected = holm(p_values.tolist())
        for level in (0.001, 0.01, 0.05, 0.2, 0.7):
            rejected, left = set(), size
            for place in np.argsort(p_values):
                if p_values[place] > level / left:
                    break
                rejected.add(int(place))
                left -= 1
            assert {place for place, value in enumerate(corrected) if value <= level} == rejected


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_comparison_without_a_p_value_counts_all_the_same():
    corrected = holm([math.nan, 0.01, math.nan])
    assert corrected[1] == pytest.approx(0.03)
    assert math.isnan(corrected[0])
    assert math.isnan(corrected[2])


def test_effect_size_by_hand():
    # Mean 2, deviation 1; of three values gamma(1) / gamma(1/2) = 1 / sqrt(pi).
    assert effect_size([1.0, 2.0, 3.0]) == pytest.approx(2.0 / math.sqrt(math.pi))
    # The usual approximation of the correction: 1 - 3 / (4 d - 1).
    values = np.arange(31.0)
    assert effect_size(values.tolist()) == pytest.approx(values.mean() / values.std(ddof=1) * (1 - 3 / 119), rel=1e-4)


@pytest.mark.parametrize("values", [[0.3], [0.1, 0.5], [0.2, 0.2, 0.2], []])
def test_too_little_for_an_effect_size(values):
    assert math.isnan(effect_size(values))


@pytest.mark.parametrize("num_seeds", [4, 6])
def test_the_effect_size_is_unbiased(num_seeds):
    drawn = np.random.default_rng(0).normal(loc=0.8, size=(20_000, num_seeds))
    found = np.mean([effect_size(row.tolist()) for row in drawn])
    plain = np.mean(drawn.mean(axis=1) / drawn.std(axis=1, ddof=1))
    assert found == pytest.approx(0.8, abs=0.02)
    assert plain > 0.9


@pytest.mark.parametrize(("values", "shares"), [((0, 1), (0.2, 0.8)), ((-1, 0, 1), (0.1, 0.7, 0.2))])
def test_the_bootstrap_is_scipys(values, shares):
    """Drawing how many images have each value is drawing the images."""
    images = np.random.default_rng(1).choice(values, p=shares, size=300)
    found = stats.bootstrap(
        (images.astype(float),), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(0), batch=500
    )
    theirs = found.confidence_interval
    # Percentiles lie on steps of one image, and may differ by one.
    assert bootstrap_interval(images) == pytest.approx((theirs.low, theirs.high), abs=1.01 / 300)


def test_the_bootstrap_gives_the_same_digits():
    images = np.random.default_rng(1).integers(2, size=97)
    assert bootstrap_interval(images) == bootstrap_interval(images)
