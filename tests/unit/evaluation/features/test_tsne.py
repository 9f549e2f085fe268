import numpy as np
import pytest
import torch

from ssl_transfer.evaluation.features.tsne import LEAST_IMAGES, embed


def groups(count: int = 20, width: int = 16) -> torch.Tensor:
    """Three groups of directions, one after the other."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(width)[:3].repeat_interleave(count, dim=0)
    return centres + 0.05 * torch.randn(3 * count, width, generator=generator)


def test_what_is_alike_lies_together():
    points = embed(groups(), seed=0)
    assert points.shape == (60, 2)
    assert np.abs(points).max() == pytest.approx(1.0)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 9.0 * np.eye(60)
    nearest = distances.argmin(axis=1)
    assert (nearest // 20 == np.arange(60) // 20).all()


def test_equal_seeds_give_equal_maps_on_any_number_of_threads():
    first = embed(groups(), seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (embed(groups(), seed=0) == first).all()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("features", [torch.zeros(30, 4), torch.ones(30, 4)])
def test_what_does_not_vary_lies_in_one_point(features):
    assert (embed(features, seed=0) == 0.0).all()


@pytest.mark.parametrize("shape", [(LEAST_IMAGES, 2), (12, 1), (12, 300)])
def test_few_images_and_narrow_features(shape):
    points = embed(torch.randn(shape, generator=torch.Generator().manual_seed(0)), seed=0)
    assert points.shape == (shape[0], 2)
    assert np.isfinite(points).all()
