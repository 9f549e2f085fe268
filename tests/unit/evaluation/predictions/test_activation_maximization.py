"""Ideal images: the score rises, the variation falls with its weight, and the same seed gives the same image."""

import pytest
import torch

from ssl_transfer.evaluation.predictions.activation_maximization import ideal_images, total_variation
from ssl_transfer.evaluation.predictions.attacks import scores_of
from ssl_transfer.models.classifier import Classifier


@pytest.fixture
def ideals(make_supervised):
    """`ideals(classes, steps=..., variation_weight=..., seed=...)` of a tiny model with three classes."""
    objective = make_supervised()
    torch.nn.init.normal_(objective.head.layers[-1].weight, std=1.0, generator=torch.Generator().manual_seed(0))
    classifier = Classifier(objective.backbone.eval(), objective.head.eval(), torch.arange(3))
    before = {name: value.clone() for name, value in objective.state_dict().items()}

    def make(classes=(0, 1, 2), *, steps: int = 15, variation_weight: float = 0.001, seed: int = 0):
        found = ideal_images(
            scores_of(classifier),
            classes,
            shape=(3, 16, 16),
            device=torch.device("cpu"),
            steps=steps,
            variation_weight=variation_weight,
            seed=seed,
        )
        assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())
        assert all(parameter.grad is None for parameter in objective.parameters())
        return found

    return make


def test_total_variation_by_hand():
    image = torch.tensor([[[[0.0, 3.0], [4.0, 3.0]]]])
    # 0 has 3 to its right and 4 below, the upper 3 a 3 below it, 4 a 3 to its right, and the last pixel has nothing.
    expected = 5.0 + 0.0 + 1.0 + 0.0
    torch.testing.assert_close(total_variation(image), torch.tensor([expected]), atol=1e-3, rtol=0)
    assert float(total_variation(torch.full((1, 3, 8, 8), 0.4))) < 1e-2


def test_the_score_of_each_class_rises(ideals):
    found = ideals()
    assert found.images.shape == (3, 3, 16, 16)
    assert (found.scores > found.start_scores + 0.5).all()
    assert 0.0 <= float(found.images.min()) < 0.3 < 0.7 < float(found.images.max()) <= 1.0
    # More steps reach more.
    assert (ideals(steps=40).scores > found.scores).all()


def test_more_weight_is_smoother(ideals):
    loose, tight = ideals(variation_weight=0.0), ideals(variation_weight=0.2)
    assert (tight.variation < 0.5 * loose.variation).all()
    assert (tight.scores < loose.scores).all()


def test_the_same_seed_gives_the_same_image(ideals):
    found = ideals()
    torch.manual_seed(123)
    assert torch.equal(found.images, ideals().images)
    assert not torch.equal(found.images, ideals(seed=1).images)


def test_a_class_does_not_depend_on_the_others(ideals):
    whole, alone = ideals(), ideals((2,))
    torch.testing.assert_close(whole.images[2:], alone.images, atol=1e-3, rtol=0)
