import math

import pytest
import torch

from ssl_transfer.evaluation.features.transferability import distance, similarity


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_similarity(first, second) -> float:
    """Equation 5 of Song et al. written out, with vectors of ones and every sum by itself."""

    def criterion(one, other):
        count = len(one)
        ones = torch.ones(count, dtype=torch.float64)
        trace = torch.trace(one @ other)
        sums = (ones @ one @ ones) * (ones @ other @ ones) / ((count - 1) * (count - 2))
        cross = 2.0 / (count - 2) * (ones @ one @ other @ ones)
        return (trace + sums - cross) / (count * (count - 3))

    grams = [features @ features.T for features in (first, second)]
    ours, theirs = (gram - torch.diag(torch.diag(gram)) for gram in grams)
    return float(criterion(ours, theirs) / math.sqrt(criterion(ours, ours) * criterion(theirs, theirs)))


def test_a_rotation_and_a_scale_change_nothing():
    features = noise(40, 12)
    rotation = torch.linalg.qr(noise(12, 12, seed=1)).Q
    assert similarity(features, features) == pytest.approx(1.0, abs=1e-12)
    assert similarity(features, 3.0 * features @ rotation + 5.0) == pytest.approx(1.0, abs=1e-9)
    # Other than a rotation does: it says which directions matter.
    assert similarity(features, features @ torch.diag(torch.linspace(0.01, 3.0, 12)).double()) < 0.95


@pytest.mark.parametrize("width", [8, 200, 2000])
def test_independent_noise_has_nothing_in_common_however_wide(width):
    found = similarity(noise(200, width), noise(200, width, seed=1))
    assert abs(found) < 0.05


def test_it_is_the_published_estimate():
    first, second = noise(15, 6), noise(15, 9, seed=1)
    second[:, :6] += first
    assert similarity(first, second) == pytest.approx(naive_similarity(first, second), abs=1e-12)
    assert similarity(first, second) == pytest.approx(similarity(second, first), abs=1e-12)


def test_what_does_not_vary_is_like_nothing():
    assert math.isnan(similarity(noise(20, 4), torch.full((20, 4), 0.1)))
    assert math.isnan(similarity(noise(3, 4), noise(3, 4, seed=1)))


def test_equal_distributions_are_not_told_apart():
    found = [distance(noise(150, 16, seed=seed), noise(400, 16, seed=100 + seed), seed=seed) for seed in range(8)]
    assert sum(found) / len(found) < 0.2


def test_other_distributions_are_told_apart():
    assert distance(noise(60, 16), noise(60, 16, seed=1) + 3.0, seed=0) == 2.0
    # Two normal variables, d apart, are told apart with the probability Phi(d / 2): of d = 2 in 84 % of cases.
    shift = torch.zeros(4, dtype=torch.float64)
    shift[0] = 2.0
    found = distance(noise(2000, 4), noise(2000, 4, seed=1) + shift, seed=0)
    assert found == pytest.approx(2.0 * (2.0 * 0.8413 - 1.0), abs=0.06)


def test_the_larger_set_does_not_win_by_its_size():
    assert distance(noise(30, 8), noise(3000, 8, seed=1), seed=0) < 0.8
    assert distance(noise(30, 8), noise(300, 8), seed=0) == distance(noise(30, 8), noise(300, 8), seed=0)
    assert math.isnan(distance(noise(4, 8), noise(300, 8), seed=0))
