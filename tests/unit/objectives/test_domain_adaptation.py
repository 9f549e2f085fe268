"""Objectives of adaptation: reversal by finite differences, distances by hand, the teacher, the one forward."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.objective import Batch
from ssl_transfer.objectives import ADAPTATIONS, dann, mmd_coral
from ssl_transfer.objectives.domain_adaptation import Adapting, Domains
from ssl_transfer.objectives.domain_batch_norm import TargetStatistics, kept_norms
from ssl_transfer.objectives.self_training import MEMORY, SelfTraining
from ssl_transfer.objectives.supervised import batch_norms


def domains(source: Tensor, target: Tensor, *, num_classes: int = 3) -> Domains:
    zeros = [torch.zeros(len(part), num_classes) for part in (source, target)]
    return Domains(source, target, *zeros, torch.zeros(len(target), 1, 4, 4))


def features(count: int, width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def both_domains(make_batch: Callable) -> Batch:
    """Four images of the source with labels, then four of the target."""
    return make_batch(8, labels=torch.tensor([0, 1, 2, 0, -1, -1, -1, -1]))


def make(make_supervised: Callable, name: str, norm: str = "shared", **settings: object) -> Adapting:
    supervised, entry = make_supervised(), ADAPTATIONS[name]
    torch.manual_seed(0)
    term = entry.term(supervised, supervised.backbone.num_features, 3, entry.config(**settings))
    made = Adapting(supervised, term, norm=norm)
    made.begin(adapting=True)
    return made.train()


# Reversal


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.0), (0.5, 0.98661), (1.0, 0.99991), (0.1, 2 / (1 + math.exp(-1)) - 1)]
)
def test_reversal_follows_the_progress(progress: float, expected: float) -> None:
    assert dann.reversal_at(progress) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_feature_gradient_is_reversed_and_the_discriminators_is_whole(strength: float) -> None:
    """Against finite differences in float64: the features' is -lambda times, the discriminator's whatever lambda is."""
    torch.manual_seed(0)
    term = dann.DANN(None, 4, 3, dann.DANNConfig(hidden_width=6)).double()
    source, target = (features(3, 4, seed).double().requires_grad_() for seed in (1, 2))
    term.reversal.fill_(strength)
    term(domains(source, target)).loss.backward()

    def loss() -> float:
        with torch.no_grad():
            return float(term(domains(source, target)).loss)

    def difference(values: Tensor, place: tuple[int, ...]) -> float:
        step = 1e-6
        with torch.no_grad():
            values[place] += step
            above = loss()
            values[place] -= 2 * step
            below = loss()
            values[place] += step
        return (above - below) / (2 * step)

    for values in (source, target):
        for place in [(0, 0), (1, 3), (2, 2)]:
            assert float(values.grad[place]) == pytest.approx(-strength * difference(values, place), rel=1e-3, abs=1e-8)
    weights = term.discriminator[0].weight
    slopes = [difference(weights, place) for place in [(0, 0), (3, 2), (5, 3)]]
    assert max(map(abs, slopes)) > 1e-4
    for place, slope in zip([(0, 0), (3, 2), (5, 3)], slopes, strict=True):
        assert float(weights.grad[place]) == pytest.approx(slope, rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("name", ["dann", "cdan"])
def test_reversal_moves_with_steps_and_starts_anew(name: str, make_supervised: Callable) -> None:
    made = make(make_supervised, name, strength=0.5)
    assert float(made.term.reversal) == 0.0
    made.after_step(0.5)
    assert float(made.term.reversal) == pytest.approx(0.5 * 0.98661, abs=1e-5)
    # It is in the state, so a resumed training has it.
    other = make(make_supervised, name, strength=0.5)
    other.load_state_dict(made.state_dict())
    assert float(other.term.reversal) == float(made.term.reversal) > 0.4
    made.begin(adapting=True)
    assert float(made.term.reversal) == 0.0


def test_a_discriminator_that_knows_all_has_the_distance_two() -> None:
    term = dann.DANN(None, 1, 3, dann.DANNConfig(hidden_width=1))
    with torch.no_grad():
        for layer in (0, 2, 4):
            term.discriminator[layer].weight.fill_(1.0)
            term.discriminator[layer].bias.zero_()
        term.discriminator[4].bias.fill_(-5.0)
    known = term(domains(torch.full((3, 1), 10.0), torch.zeros(5, 1))).metrics
    assert (float(known["discriminator_accuracy"]), float(known["domain_distance"])) == (1.0, 2.0)
    lost = term(domains(torch.full((3, 1), 10.0), torch.full((5, 1), 10.0))).metrics
    assert (float(lost["discriminator_accuracy"]), float(lost["domain_distance"])) == (0.5, 0.0)


def test_cdan_sees_outer_products_and_counts_sure_images_more() -> None:
    term = dann.CDAN(None, 2, 2, dann.CDANConfig(hidden_width=4, random_width=8))
    given = Domains(
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        torch.tensor([[5.0, 6.0]]),
        torch.tensor([[0.0, 0.0], [50.0, 0.0]], requires_grad=True),
        torch.tensor([[0.0, math.log(3.0)]]),
        torch.zeros(1, 1, 4, 4),
    )
    inputs, weights = term.inputs(given)
    expected = [[0.5, 1.0, 0.5, 1.0], [3.0, 4.0, 0.0, 0.0], [1.25, 1.5, 3.75, 4.5]]
    torch.testing.assert_close(inputs, torch.tensor(expected))
    # 1 + exp(-entropy): 1.5 where nothing is known of two classes, 2 where all is.
    torch.testing.assert_close(weights, torch.tensor([1.5 / 1.75, 2.0 / 1.75, 1.0]))
    assert not inputs.requires_grad


def test_cdan_projects_what_is_wide() -> None:
    torch.manual_seed(0)
    wide = dann.CDAN(None, 2000, 3, dann.CDANConfig(hidden_width=4, entropy=False, random_width=64))
    inputs, weights = wide.inputs(domains(features(3, 2000), features(2, 2000, 1)))
    assert inputs.shape == (5, 64)
    assert (weights == 1.0).all()
    assert {"feature_projection", "class_projection"} <= wide.state_dict().keys()


# Distances


def test_coral_by_hand() -> None:
    """Covariances [[2, 2], [2, 2]] and [[2, -4], [-4, 8]] (n - 1 = 1): differences 0, 6, 6, -6."""
    source = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    target = torch.tensor([[0.0, 4.0], [2.0, 0.0]])
    assert float(mmd_coral.coral(source, target)) == pytest.approx(108.0 / (4.0 * 2**2))


def test_mmd_by_hand() -> None:
    """Points 0 and 1 of the source, 2 and 3 of the target, one kernel.

    Squared distances 1, 4, 9, 1, 4, 1 in 12 ordered pairs of 20 twice: bandwidth 40 / 12.
    """
    source, target = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    width = 40.0 / 12.0

    def k(distance: float) -> float:
        return math.exp(-distance / width)

    within = 2 * (2 + 2 * k(1.0)) / 4
    across = (k(4.0) + k(9.0) + k(1.0) + k(4.0)) / 4
    assert float(mmd_coral.mmd(source, target, kernels=1)) == pytest.approx(within - 2 * across, rel=1e-6)


@pytest.mark.parametrize("kernels", [1, 5])
def test_mmd_is_that_of_a_naive_float64(kernels: int) -> None:
    source, target = features(6), 2.0 * features(4, seed=1) + 0.5
    rows = torch.cat([source, target]).double().numpy()
    squares = np.array([[np.sum((x - y) ** 2) for y in rows] for x in rows])
    width = squares.sum() / (len(rows) * (len(rows) - 1))
    total = np.zeros_like(squares)
    for number in range(kernels):
        total += np.exp(-squares / (width * 2.0 ** (number - (kernels - 1) / 2))) / kernels
    expected = total[:6, :6].mean() + total[6:, 6:].mean() - 2 * total[:6, 6:].mean()
    assert float(mmd_coral.mmd(source, target, kernels=kernels)) == pytest.approx(expected, rel=1e-4)


def test_coral_is_that_of_a_naive_float64() -> None:
    source, target = features(6), 2.0 * features(4, seed=1)
    covariances = [np.cov(part.double().numpy().T) for part in (source, target)]
    expected = np.square(covariances[0] - covariances[1]).sum() / (4 * 25)
    assert float(mmd_coral.coral(source, target)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("distance", [mmd_coral.mmd, mmd_coral.coral])
def test_equal_domains_have_no_distance_and_it_falls(distance: Callable) -> None:
    source, target = features(8), features(8, seed=1) * 2.0 + 3.0
    assert float(distance(source, source)) == pytest.approx(0.0, abs=1e-6)
    target.requires_grad_()
    before = distance(source, target)
    before.backward()
    assert float(distance(source, target.detach() - 0.5 * target.grad)) < float(before.detach())


# Self-training


def test_teacher_follows_and_is_never_trained(make_supervised: Callable, both_domains: Batch) -> None:
    made = make(make_supervised, "self-training", confidence=0.0, momentum=0.9)
    term = made.term
    assert isinstance(term, SelfTraining)
    assert not any(parameter.requires_grad for parameter in term.teacher.parameters())
    assert not any(module.training for module in term.teacher.modules())
    before = {name: value.clone() for name, value in term.teacher.state_dict().items()}
    made(both_domains).loss.backward()
    assert all(parameter.grad is None for parameter in term.teacher.parameters())
    # A forward of its own moves nothing of it, statistics included.
    assert all(torch.equal(value, before[name]) for name, value in term.teacher.state_dict().items())
    with torch.no_grad():
        for parameter in made.supervised.parameters():
            parameter += 1.0
    made.after_step(0.1)
    name = "head.layers.0.weight"
    torch.testing.assert_close(term.teacher.state_dict()[name], before[name] + 0.1, rtol=1e-5, atol=1e-6)
    moved = made.supervised.state_dict()["backbone.model.bn1.running_mean"]
    expected = before["backbone.model.bn1.running_mean"].lerp(moved, 0.1)
    torch.testing.assert_close(term.teacher.state_dict()["backbone.model.bn1.running_mean"], expected)


def test_labels_count_from_the_confidence_on_and_rare_classes_more(
    make_supervised: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(make_supervised, "self-training", confidence=0.8, weight=2.0)
    term = made.term
    shares = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.3, 0.2], [0.05, 0.05, 0.9]])
    monkeypatch.setattr(term.teacher, "logits", lambda _: shares.log())
    term.frequencies.copy_(torch.tensor([0.6, 0.2, 0.2]))
    student = features(3, 3)
    given = domains(features(3), features(3, seed=1))._replace(target_logits=student)
    found = term(given)
    losses = -torch.log_softmax(student, dim=1)
    third = 1.0 / 3.0
    expected = 2.0 * (third / 0.6 * losses[0, 0] + third / 0.2 * losses[2, 2]) / 3.0
    assert float(found.loss) == pytest.approx(float(expected), rel=1e-5)
    assert float(found.metrics["sure"]) == pytest.approx(2.0 / 3.0)
    # Of those that counted, half were of the first and half of the last class.
    expected_frequencies = [0.6 * MEMORY + 0.5 * (1 - MEMORY), 0.2 * MEMORY, 0.2 * MEMORY + 0.5 * (1 - MEMORY)]
    assert term.frequencies.tolist() == pytest.approx(expected_frequencies)


def test_without_a_sure_label_nothing_is_learned_of_the_target(make_supervised: Callable, both_domains: Batch) -> None:
    made = make(make_supervised, "self-training", confidence=0.999)
    found = made(both_domains)
    assert float(found.metrics["sure"]) == 0.0
    assert made.term.frequencies.tolist() == pytest.approx([1 / 3] * 3)
    count = int((both_domains.labels >= 0).sum())
    views = made.supervised.view(both_domains.images, both_domains.keys)
    logits = made.supervised.scores_of_pooled(made._features(views))[:count]
    plain = F.cross_entropy(logits, both_domains.labels[:count])
    assert float(found.loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)


# The one forward


@pytest.mark.parametrize("name", ["dann", "cdan", "mmd", "coral", "self-training"])
def test_both_domains_go_through_the_backbone_at_once(
    name: str, make_supervised: Callable, both_domains: Batch
) -> None:
    made, sizes = make(make_supervised, name), []
    made.backbone.register_forward_hook(lambda *given: sizes.append(len(given[2])))
    made(both_domains)
    assert sizes == [8]


def test_with_statistics_apart_each_domain_moves_its_own(make_supervised: Callable, both_domains: Batch) -> None:
    made = make(make_supervised, "mmd", norm="separate")
    # The target's images are darker: their statistics part from the source's.
    given = both_domains._replace(images=torch.cat([both_domains.images[:4], both_domains.images[4:] * 0.2]))
    norm, statistics = batch_norms(made.backbone)[0], made.statistics
    place = norm.running_mean.data_ptr()
    alone = make(make_supervised, "mmd", norm="separate")
    alone.begin(adapting=False)
    alone(Batch(given.images[:4], given.labels[:4], given.keys[:4]))
    made(given)
    # As if it had seen the source alone.
    torch.testing.assert_close(norm.running_mean, batch_norms(alone.backbone)[0].running_mean)
    assert norm.running_mean.data_ptr() == place
    target = statistics.get_buffer("running_mean_0")
    assert not torch.allclose(target, norm.running_mean)
    with made.in_target():
        assert norm.running_mean is target
    assert norm.running_mean is not target
    made(given).loss.backward()


def test_estimated_statistics_are_those_of_the_images(make_supervised: Callable, make_batch: Callable) -> None:
    backbone = make_supervised().backbone.eval()
    statistics = TargetStatistics(backbone)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    views = make_batch(12).images
    statistics.estimate([views[:6], views[6:]])
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not any(module.training for module in backbone.modules())
    first = kept_norms(backbone)[0]
    seen: list[Tensor] = []
    hook = first.register_forward_hook(lambda *given: seen.append(given[1][0]))
    backbone(views)
    hook.remove()
    torch.testing.assert_close(statistics.get_buffer("running_mean_0"), seen[0].mean(dim=(0, 2, 3)))
    halves = [part.var(dim=(0, 2, 3)) for part in seen[0].split(6)]
    torch.testing.assert_close(statistics.get_buffer("running_var_0"), (halves[0] + halves[1]) / 2)


def test_labels_of_the_target_cannot_matter(make_supervised: Callable, both_domains: Batch) -> None:
    for name, entry in ADAPTATIONS.items():
        if entry.term is None:
            continue
        losses = []
        for labels in (-1, 2):
            other = both_domains.labels.clone()
            other[4:] = labels
            losses.append(float(make(make_supervised, name)(both_domains._replace(labels=other)).loss.detach()))
        assert losses[0] == losses[1], name


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dann", {"hidden_width": 0}),
        ("dann", {"strength": 0.0}),
        ("cdan", {"random_width": 0}),
        ("mmd", {"weight": 0.0}),
        ("mmd", {"kernels": 0}),
        ("coral", {"weight": -1.0}),
        ("self-training", {"confidence": 1.0}),
        ("self-training", {"weight": 0.0}),
        ("self-training", {"momentum": 1.0}),
    ],
)
def test_settings_that_cannot_be(name: str, settings: dict, make_supervised: Callable) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        make(make_supervised, name, **settings)
