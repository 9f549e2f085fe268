"""Adversarial examples: within epsilon and 0..1, against hand-computed cases and captum's own attacks."""

import pytest
import torch
import torch.nn.functional as F
from captum import robust
from torch import Tensor

from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.evaluation.predictions import attacks
from ssl_transfer.evaluation.predictions.attacks import Attack, attacked, least_likely, scores_of
from ssl_transfer.models.classifier import Classifier

FGSM, PGD = Attack(name="fgsm", targeted=False), Attack(name="pgd", targeted=False, steps=10)
TO_FGSM, TO_PGD = Attack(name="fgsm", targeted=True), Attack(name="pgd", targeted=True, steps=10)
ALL = (FGSM, PGD, TO_FGSM, TO_PGD)


@pytest.fixture(params=["convolutional", "transformer"])
def model(request, make_supervised):
    """Scores that gradients can be taken of, with a head whose answers differ."""
    objective = make_supervised(request.param)
    torch.nn.init.normal_(objective.head.layers[-1].weight, std=1.0, generator=torch.Generator().manual_seed(0))
    return scores_of(Classifier(objective.backbone.eval(), objective.head.eval(), torch.arange(3)))


@pytest.fixture
def views(make_batch):
    return make_batch(12).images


def keys_of(count: int) -> Tensor:
    return sample_keys(0, 0, torch.arange(count))


def loss_of(scores, views: Tensor, classes: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(scores(views), classes, reduction="none")


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.label)
@pytest.mark.parametrize("epsilon", [4 / 255, 0.3, 1.0])
def test_no_pixel_moves_further_than_epsilon_nor_out_of_range(model, views, attack, epsilon):
    classes = torch.arange(12) % 3
    found = attacked(model, views, classes, keys_of(12), attack=attack, epsilon=epsilon)
    assert found.shape == views.shape
    assert not found.requires_grad
    assert float((found - views).abs().max()) <= epsilon + 1e-6
    assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0
    # It did something, and what it could: most pixels stand at one border or the other.
    assert float((found - views).abs().mean()) > 0.2 * epsilon


def test_what_lies_outside_the_range_already_is_not_pulled_in(model):
    views = torch.full((2, 3, 16, 16), 1.3)
    found = attacked(model, views, torch.tensor([0, 1]), keys_of(2), attack=PGD, epsilon=0.1)
    assert float((found - views).abs().max()) <= 0.1 + 1e-6
    assert float(found.max()) <= 1.3 + 1e-6


def test_a_linear_model_by_hand():
    weights = torch.tensor([[2.0, -1.0, 0.0, 3.0], [-1.0, 1.0, 0.0, 1.0]])
    views = torch.full((1, 1, 2, 2), 0.5)

    def scores(images: Tensor) -> Tensor:
        return images.flatten(1) @ weights.T

    # The loss of class 0 falls along the difference of its weights to the other's: (3, -2, 0, 2).
    moved = attacked(scores, views, torch.tensor([0]), keys_of(1), attack=FGSM, epsilon=0.2)
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.3, 0.7, 0.5, 0.3]))
    moved = attacked(scores, views, torch.tensor([0]), keys_of(1), attack=TO_FGSM, epsilon=0.2)
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.7, 0.3, 0.5, 0.7]))
    # PGD comes to the same corner from anywhere; the third pixel stays where it began.
    moved = attacked(scores, views, torch.tensor([0]), keys_of(1), attack=PGD, epsilon=0.2).flatten()
    torch.testing.assert_close(moved[[0, 1, 3]], torch.tensor([0.3, 0.7, 0.3]))


@pytest.mark.parametrize("targeted", [False, True])
def test_equal_to_captum(model, views, targeted, monkeypatch):
    classes = torch.arange(12) % 3

    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(scores.double(), labels, reduction="none")

    theirs = robust.FGSM(model, loss, lower_bound=0.0, upper_bound=1.0)
    theirs.zero_thresh = 0.0
    expected = theirs.perturb(views, 0.05, classes, targeted=targeted)
    ours = attacked(model, views, classes, keys_of(12), attack=TO_FGSM if targeted else FGSM, epsilon=0.05)
    torch.testing.assert_close(ours, expected)

    # From the image itself, as captum without a random start.
    monkeypatch.setattr(attacks, "uniform", lambda keys, _, count: torch.full((len(keys), count), 0.5))
    theirs = robust.PGD(model, loss, lower_bound=0.0, upper_bound=1.0)
    theirs.fgsm.zero_thresh = 0.0
    expected = theirs.perturb(views, 0.05, 2.5 * 0.05 / 10, 10, classes, targeted=targeted)
    ours = attacked(model, views, classes, keys_of(12), attack=TO_PGD if targeted else PGD, epsilon=0.05)
    torch.testing.assert_close(ours, expected)


def test_a_sure_model_is_attacked_all_the_same(model, views):
    def sure(images: Tensor) -> Tensor:
        scores = model(images)
        return 40.0 * (scores - scores.detach().mean()) / scores.detach().std()

    classes = sure(views).argmax(dim=1)
    confident = sure(views).softmax(dim=1).amax(dim=1) > 1 - 1e-7
    assert confident.any()
    ours = attacked(sure, views, classes, keys_of(12), attack=FGSM, epsilon=0.05)
    moved = (ours - views).flatten(1).abs().amax(dim=1)
    torch.testing.assert_close(moved, torch.full((12,), 0.05))
    # This is why captum's own is not used: it leaves such images as they are.
    theirs = robust.FGSM(sure, lambda scores, labels: F.cross_entropy(scores, labels, reduction="none"))
    left = (theirs.perturb(views, 0.05, classes) - views).flatten(1).abs().amax(dim=1)
    assert float(left[confident].max()) == 0.0


def test_pgd_is_at_least_as_strong_as_fgsm(model, views):
    classes = torch.arange(12) % 3
    for epsilon in (0.02, 0.1, 0.3):
        once, often = (
            loss_of(model, attacked(model, views, classes, keys_of(12), attack=attack, epsilon=epsilon), classes)
            for attack in (FGSM, Attack(name="pgd", targeted=False, steps=20))
        )
        assert float(often.mean()) >= float(once.mean())
        assert float(once.mean()) > float(loss_of(model, views, classes).mean())


@pytest.mark.parametrize("attack", [TO_FGSM, TO_PGD], ids=lambda attack: attack.label)
def test_a_targeted_attack_raises_the_probability_of_its_class(model, views, attack):
    towards = least_likely(model, views, torch.arange(12) % 3)
    found = attacked(model, views, towards, keys_of(12), attack=attack, epsilon=0.05)
    assert (loss_of(model, found, towards) < loss_of(model, views, towards)).all()


def test_the_class_that_an_image_looks_least_like(model, views):
    with torch.no_grad():
        scores = model(views)
    least = scores.argmin(dim=1)
    wrong = (least + 1) % scores.shape[1]
    assert torch.equal(least_likely(model, views, wrong), least)
    # Where that is the true class, the one before it: nothing is to be gained by going there.
    assert torch.equal(least_likely(model, views, least), scores.argsort(dim=1)[:, 1])


def test_an_example_is_a_function_of_the_image_and_its_key(model, views):
    classes, keys = torch.arange(12) % 3, keys_of(12)
    whole = attacked(model, views, classes, keys, attack=PGD, epsilon=0.1)
    part = slice(5, 9)
    alone = attacked(model, views[part], classes[part], keys[part], attack=PGD, epsilon=0.1)
    # A batch of another size may add up in another order, and a gradient near zero then points the other way.
    assert float((whole[part] == alone).double().mean()) > 0.99
    other = attacked(model, views, classes, sample_keys(1, 0, torch.arange(12)), attack=PGD, epsilon=0.1)
    assert not torch.equal(whole, other)
    assert torch.equal(whole, attacked(model, views, classes, keys, attack=PGD, epsilon=0.1))
