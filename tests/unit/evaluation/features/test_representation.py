"""Effective rank, alignment and uniformity: closed forms, and that measuring leaves a training as it was."""

import copy
import math

import pytest
import torch

from ssl_transfer.evaluation.features.extract import extract
from ssl_transfer.evaluation.features.representation import alignment, effective_rank, representation, uniformity
from ssl_transfer.methods.base import feature_deviation
from ssl_transfer.stages.pretrain import monitoring


def orthogonal(count: int, dimensions: int) -> torch.Tensor:
    """(count, dimensions) with orthonormal columns."""
    random = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(random).Q.float()


@pytest.mark.parametrize(("count", "dimensions"), [(50, 8), (64, 64)])
def test_the_rank_of_features_that_use_every_direction_alike(count, dimensions):
    features = orthogonal(count, dimensions)
    assert effective_rank(features) == pytest.approx(dimensions, rel=1e-4)
    assert effective_rank(7.0 * features) == pytest.approx(dimensions, rel=1e-4)
    assert effective_rank(features.T) == pytest.approx(dimensions, rel=1e-4)


def test_an_isotropic_sample_has_nearly_full_rank():
    features = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
    assert 31.9 < effective_rank(features) < 32.0 + 1e-3


@pytest.mark.parametrize("features", [torch.ones(40, 16), torch.outer(torch.arange(40.0), torch.arange(16.0) - 3)])
def test_a_constant_and_a_line_have_rank_one(features):
    assert effective_rank(features) == pytest.approx(1.0, abs=1e-3)


def test_zeros_have_rank_one():
    assert effective_rank(torch.zeros(10, 4)) == 1.0


def test_the_rank_by_the_papers_equation():
    # Singular values 6, 3, 1: shares .6, .3, .1.
    features = orthogonal(30, 3) * torch.tensor([6.0, 3.0, 1.0])
    expected = math.exp(-sum(share * math.log(share) for share in (0.6, 0.3, 0.1)))
    assert effective_rank(features) == pytest.approx(expected, rel=1e-4)
    generic = torch.randn(50, 20, generator=torch.Generator().manual_seed(1))
    share = torch.linalg.svdvals(generic.double())
    share = share / share.sum() + 1e-7
    assert effective_rank(generic) == pytest.approx(float(torch.exp(-(share * share.log()).sum())), rel=1e-6)


def test_uniformity_of_antipodal_orthogonal_and_equal_points():
    # |a - b|^2 is 4, 2 and 0; lengths do not count.
    assert uniformity(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(-8.0, abs=1e-5)
    assert uniformity(torch.tensor([[1.0, 0.0], [0.0, 5.0]])) == pytest.approx(-4.0, abs=1e-5)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0.0, abs=1e-5)
    # Two of the three pairs are orthogonal, one is equal.
    mixed = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert uniformity(mixed) == pytest.approx(math.log((1.0 + 2.0 * math.exp(-4.0)) / 3.0), abs=1e-5)


def test_uniformity_is_that_of_the_authors_formula():
    features = torch.randn(40, 7, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(features, dim=1)
    assert uniformity(features) == pytest.approx(float(torch.pdist(unit).pow(2).mul(-2).exp().mean().log()), abs=1e-5)


def test_alignment():
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert alignment(first, 3.0 * first) == pytest.approx(0.0, abs=1e-6)
    assert alignment(first, -first) == pytest.approx(4.0)
    assert alignment(first, torch.tensor([[0.0, 1.0], [0.0, 1.0]])) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
def test_measuring_leaves_the_training_as_it_was(make_backbone, make_dataset, runtime, kind):
    backbone, dataset = make_backbone(kind).train(), make_dataset()
    before, generator = copy.deepcopy(backbone.state_dict()), torch.get_rng_state()
    first, second = (monitoring.measure(backbone, dataset, runtime) for _ in range(2))
    assert first == second
    assert first.keys() == {"knn_accuracy", "effective_rank", "feature_deviation", "alignment", "uniformity"}
    assert all(math.isfinite(value) for value in first.values())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(module.training for module in backbone.modules())


def test_what_is_measured_is_the_held_out_images(make_backbone, make_dataset, runtime):
    backbone, dataset = make_backbone(), make_dataset()
    validation = dataset.splits["validation"]
    features = extract(backbone, dataset, validation, runtime)
    found = monitoring.measure(backbone, dataset, runtime)
    assert found["effective_rank"] == pytest.approx(effective_rank(features), rel=1e-5)
    assert found["feature_deviation"] == pytest.approx(float(feature_deviation(features)), rel=1e-5)
    assert found["uniformity"] == pytest.approx(uniformity(features), rel=1e-4)
    assert found["alignment"] > 1e-4


def test_without_labels_or_validation_the_pool_is_measured(make_backbone, make_dataset, runtime):
    dataset = make_dataset()
    empty = torch.empty(0, dtype=torch.int64)
    dataset.splits.update(train=empty, validation=empty)
    assert not monitoring.is_labelled(dataset)
    found = monitoring.measure(make_backbone(), dataset, runtime)
    assert found.keys() == {"effective_rank", "feature_deviation", "alignment", "uniformity"}
    features = extract(make_backbone(), dataset, dataset.splits["unlabeled"], runtime)
    assert found["uniformity"] == pytest.approx(uniformity(features), rel=1e-4)
    # One image alone has no pair.
    dataset.splits["validation"] = torch.tensor([30])
    assert torch.equal(monitoring.held_out(dataset), dataset.pool)


def test_of_many_images_the_same_few_are_measured():
    indices = torch.arange(5000) + 7
    places = monitoring.chosen(indices)
    assert len(places) == len(places.unique()) == monitoring.MOST_IMAGES
    assert torch.equal(places, monitoring.chosen(indices))
    assert len(monitoring.chosen(indices[:10])) == 10


def test_representation_sees_a_constant_encoder(make_backbone, make_dataset, runtime):
    backbone, dataset = make_backbone(), make_dataset()
    for parameter in backbone.parameters():
        torch.nn.init.zeros_(parameter)
    backbone.model.layer4[0].bn2.bias.data.fill_(1.0)
    indices = dataset.splits["validation"]
    found = representation(backbone, dataset, indices, extract(backbone, dataset, indices, runtime), runtime)
    assert found["effective_rank"] == pytest.approx(1.0, abs=1e-3)
    assert found["feature_deviation"] == pytest.approx(0.0, abs=1e-5)
    assert found["alignment"] == pytest.approx(0.0, abs=1e-6)
    assert found["uniformity"] == pytest.approx(0.0, abs=1e-5)
