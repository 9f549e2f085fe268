"""Criteria without labels of the target."""

import math

import numpy as np
import pytest
import torch

from ssl_transfer.evaluation import adaptation_criteria


def normal(count: int, width: int = 4, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_information_is_largest_for_sure_and_even_predictions() -> None:
    even = 40.0 * torch.eye(4)
    assert adaptation_criteria.information(even) == pytest.approx(math.log(4), abs=1e-6)
    assert adaptation_criteria.information(even[:1].expand(4, 4)) == pytest.approx(0.0, abs=1e-6)
    assert adaptation_criteria.information(torch.zeros(4, 4)) == pytest.approx(0.0, abs=1e-6)
    # Two images, (3/4, 1/4) and the reverse: log 2 less the entropy of 3/4.
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]])
    assert adaptation_criteria.information(logits) == pytest.approx(math.log(2) - entropy, rel=1e-6)


def test_density_by_hand() -> None:
    """Three images, two alike and one across: similarities 1 and 0, over 0.05."""
    logits = torch.tensor([[50.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    share = math.exp(20.0) / (math.exp(20.0) + 1.0)
    lonely = math.log(2.0)
    close = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    assert adaptation_criteria.neighbourhood_density(logits) == pytest.approx((2 * close + lonely) / 3, rel=1e-5)


def test_density_prefers_classes_that_lie_together() -> None:
    together = 50.0 * torch.eye(2).repeat_interleave(10, dim=0)
    scattered = 5.0 * normal(20, 2)
    assert adaptation_criteria.neighbourhood_density(together) == pytest.approx(math.log(9), rel=1e-3)
    assert adaptation_criteria.neighbourhood_density(together) > adaptation_criteria.neighbourhood_density(scattered)


def test_importance_weights_by_hand() -> None:
    losses, weights = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([0.5, 1.0, 1.0, 2.5])
    weighted = np.array([0.5, 2.0, 3.0, 15.0])
    slope = np.cov(weighted, weights.numpy())[0, 1] / weights.numpy().var(ddof=1)
    expected = weighted.mean() - slope * (weights.numpy().mean() - 1.0)
    assert adaptation_criteria.importance_weighted_loss(losses, weights) == pytest.approx(expected, rel=1e-6)
    assert adaptation_criteria.importance_weighted_loss(losses, torch.ones(4)) == pytest.approx(3.0)


def test_density_ratio_finds_shifted_gaussians() -> None:
    """Of N(1, 1) against N(0, 1) the log ratio is x - 1/2."""
    source, target = normal(1000, 1), normal(500, 1, seed=1) + 1.0
    asked = torch.tensor([[-1.0], [0.5], [2.0]])
    found = adaptation_criteria.density_ratio(source, target, asked).log()
    torch.testing.assert_close(found, asked[:, 0].double() - 0.5, atol=0.3, rtol=0.0)


def test_few_are_evenly_picked() -> None:
    assert adaptation_criteria.few(torch.arange(10), 4).tolist() == [0, 2, 5, 7]
    assert adaptation_criteria.few(torch.arange(3), 4).tolist() == [0, 1, 2]
