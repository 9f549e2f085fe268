"""The linear probe, against the loss that it says it minimises."""

import pytest
import torch
import torch.nn.functional as F

from ssl_transfer.engine.errors import InputError
from ssl_transfer.evaluation.features.linear_probe import STRENGTHS, linear_probe


def blobs(count: int, *, seed: int, spread: float = 1.0, num_classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, 5) around one place a class, far from 1 in scale, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % num_classes
    return 40.0 * (F.one_hot(labels, 5) + spread * torch.randn(count, 5, generator=generator)), labels


def test_it_minimises_what_it_says():
    features, labels = blobs(90, seed=0)
    probe = linear_probe(features, labels, features, labels, num_classes=3, strengths=(0.1,))
    scale = 1.0 / features.double().square().mean().sqrt()
    inputs = features.double() * scale
    weights = (probe.weights / scale).requires_grad_()
    bias = probe.bias.clone().requires_grad_()
    loss = F.cross_entropy(inputs @ weights.mT + bias, labels) + 0.1 / 2 * weights.square().sum()
    gradients = torch.autograd.grad(loss, (weights, bias))
    assert all(float(gradient.abs().max()) < 1e-4 for gradient in gradients)
    assert float(weights.detach().abs().max()) > 0.1


def test_validation_chooses_from_the_grid():
    train, validation = blobs(60, seed=0, spread=0.6), blobs(300, seed=1, spread=0.6)
    probe = linear_probe(*train, *validation, num_classes=3)
    single = [linear_probe(*train, *validation, num_classes=3, strengths=(value,)) for value in STRENGTHS]
    best = max(one.validation_accuracy for one in single)
    assert probe.validation_accuracy == pytest.approx(best, abs=0.01)
    measured = (probe.logits(validation[0]).argmax(dim=1) == validation[1]).double().mean()
    assert probe.validation_accuracy == float(measured)
    assert min(one.validation_accuracy for one in single) < best
    assert probe.note == ""


def test_the_scale_of_features_does_not_matter():
    train, validation = blobs(60, seed=0), blobs(60, seed=1)
    first = linear_probe(*train, *validation, num_classes=3)
    second = linear_probe(train[0] / 1000.0, train[1], validation[0] / 1000.0, validation[1], num_classes=3)
    assert first.strength == second.strength
    assert torch.allclose(first.logits(validation[0]), second.logits(validation[0] / 1000.0), atol=1e-3)


def test_a_dimension_that_is_nearly_always_zero_is_not_blown_up():
    features, labels = blobs(60, seed=0, spread=0.3)
    sparse = torch.zeros(60, 1)
    sparse[0] = 1e-4
    probe = linear_probe(
        torch.cat([features, sparse], dim=1),
        labels,
        *(torch.cat([blobs(60, seed=1, spread=0.3)[0], torch.ones(60, 1)], dim=1), labels),
        num_classes=3,
    )
    assert probe.validation_accuracy > 0.9


def test_the_edge_of_the_grid_is_a_warning():
    train = blobs(60, seed=0, spread=0.1)
    probe = linear_probe(*train, *train, num_classes=3, strengths=(1e4, 1e3))
    assert "grid's last" in probe.note
    assert probe.strength in (1e4, 1e3)


def test_the_same_again():
    train, validation = blobs(60, seed=0), blobs(60, seed=1)
    first, second = (linear_probe(*train, *validation, num_classes=3) for _ in range(2))
    assert torch.equal(first.weights, second.weights)
    assert first.strength == second.strength


def test_classes_without_training_images_are_never_predicted():
    features, labels = blobs(60, seed=0, num_classes=2)
    labels = torch.tensor([1, 3])[labels]
    probe = linear_probe(features, labels, features, labels, num_classes=5)
    logits = probe.logits(features)
    assert logits.shape == (60, 5)
    assert set(logits.argmax(dim=1).tolist()) == {1, 3}
    assert (logits.argmax(dim=1) == labels).double().mean() > 0.7


def test_what_cannot_be_fitted_is_refused():
    features, labels = blobs(10, seed=0)
    with pytest.raises(InputError, match="two classes or more"):
        linear_probe(features, torch.zeros_like(labels), features, labels, num_classes=3)
    with pytest.raises(InputError, match="validation images"):
        linear_probe(features, labels, features[:0], labels[:0], num_classes=3)
