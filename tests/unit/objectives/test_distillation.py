"""Soft targets, hints and similarities against naive versions; a teacher that is asked and never changed."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssl_transfer.data.transforms.augment import SUPERVISED_DEFAULT, augment, evaluation_view
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import parameter_groups
from ssl_transfer.engine.training.gradients import accumulate_gradient
from ssl_transfer.engine.training.objective import Batch
from ssl_transfer.models.classifier import Classifier
from ssl_transfer.models.heads import HeadConfig, make_head
from ssl_transfer.objectives.distillation import (
    Distillation,
    DistillationConfig,
    Teacher,
    hints,
    similarity_preserving,
    soft_targets,
)
from ssl_transfer.objectives.supervised import Supervised, SupervisedConfig


def logits(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def make_teacher(make_backbone) -> Callable[..., Teacher]:
    """A teacher with opinions: `make_teacher("transformer", size=24)`; it knows the classes as b, c, a."""

    def make(kind: str = "convolutional", *, size: int = 16, view: str = "same", seed: int = 5) -> Teacher:
        backbone = make_backbone(kind, seed=seed, size=size)
        torch.manual_seed(seed)
        head = make_head(HeadConfig(), backbone, 3)
        torch.nn.init.normal_(head.layers[-1].weight)
        classifier = Classifier(backbone.eval(), head.eval(), torch.tensor([2, 0, 1]))
        return Teacher(classifier, augment=SUPERVISED_DEFAULT, view=view)

    return make


@pytest.fixture
def make_distillation(make_supervised, make_teacher) -> Callable[..., Distillation]:
    def make(
        kind: str = "convolutional", teacher: Teacher | None = None, *, labelled_share: float = 1.0, **settings
    ) -> Distillation:
        config = DistillationConfig(**{"temperature": 2.0, "alpha": 0.5, **settings})
        torch.manual_seed(1)
        student = make_supervised(kind)
        return Distillation(student, teacher or make_teacher(), config, labelled_share=labelled_share).train()

    return make


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_soft_targets_are_those_of_the_definition(temperature: float) -> None:
    student, teacher = logits(6, 5), logits(6, 5, seed=1)
    expected = 0.0
    for ours, theirs in zip(student.double(), teacher.double(), strict=True):
        p, q = (torch.softmax(one / temperature, dim=0) for one in (ours, theirs))
        expected += float((q * (q / p).log()).sum()) * temperature**2 / 6
    found = soft_targets(student, teacher, temperature=temperature)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_soft_targets_have_the_gradient_of_finite_differences() -> None:
    teacher, step = logits(3, 4, seed=1), 1e-2
    student = logits(3, 4).requires_grad_()
    soft_targets(student, teacher, temperature=3.0).backward()
    assert student.grad is not None
    for place in range(student.numel()):
        moved = torch.zeros(12)
        moved[place] = step
        sides = [
            soft_targets(student.detach() + sign * moved.view(3, 4), teacher, temperature=3.0) for sign in (1.0, -1.0)
        ]
        difference = float(sides[0] - sides[1]) / (2 * step)
        assert float(student.grad.flatten()[place]) == pytest.approx(difference, abs=2e-4)


def test_agreement_costs_nothing() -> None:
    teacher = logits(8, 10)
    for temperature in (0.5, 1.0, 20.0):
        assert float(soft_targets(teacher, teacher, temperature=temperature)) == pytest.approx(0.0, abs=1e-6)
    # The same probabilities by other scores.
    assert float(soft_targets(teacher + 7.0, teacher, temperature=2.0)) == pytest.approx(0.0, abs=1e-5)
    assert float(soft_targets(-teacher, teacher, temperature=2.0)) > 1.0


def test_the_value_does_not_depend_on_the_number_of_classes() -> None:
    """Ignore classes of zero probability; reduction by 'mean' would divide by their number."""
    student, teacher = logits(4, 3), logits(4, 3, seed=1)
    impossible = torch.full((4, 97), -60.0)
    few = soft_targets(student, teacher, temperature=1.0)
    many = soft_targets(torch.cat([student, impossible], 1), torch.cat([teacher, impossible], 1), temperature=1.0)
    assert float(many) == pytest.approx(float(few), rel=1e-5)


def test_the_size_of_the_gradient_is_steady_over_temperatures() -> None:
    sizes = {}
    for temperature in (1.0, 2.0, 5.0, 10.0, 20.0):
        student = logits(64, 10, scale=1.0).requires_grad_()
        soft_targets(student, logits(64, 10, seed=1, scale=1.0), temperature=temperature).backward()
        assert student.grad is not None
        sizes[temperature] = float(student.grad.norm())
    assert max(sizes.values()) < 2.0 * min(sizes.values())
    # Without the factor it would be 100 times smaller at 20 than at 2.
    assert sizes[20.0] / 20.0**2 < 0.02 * sizes[2.0] / 2.0**2


def test_losses_are_float32_under_autocast() -> None:
    student, teacher = logits(6, 5), logits(6, 5, seed=1)
    plain = [soft_targets(student, teacher, temperature=2.0), similarity_preserving(student, teacher)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = [soft_targets(student, teacher, temperature=2.0), similarity_preserving(student, teacher)]
    for one, other in zip(plain, low, strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(one, other)


def test_hints_are_half_the_mean_square() -> None:
    assert float(hints(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]]))) == (
        0.5 * (0 + 4 + 9 + 0) / 4
    )


def test_similarities_of_two_images_by_hand() -> None:
    """Features (1, 0) and (1, 1): G = [[1, 1], [1, 2]], its rows by sqrt 2 and sqrt 5; the teacher's are apart."""
    student, teacher = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    a, b, c = 1 / math.sqrt(2), 1 / math.sqrt(5), 2 / math.sqrt(5)
    expected = ((1 - a) ** 2 + a**2 + b**2 + (1 - c) ** 2) / 4
    assert float(similarity_preserving(student, teacher)) == pytest.approx(expected, rel=1e-6)
    assert float(similarity_preserving(student, 5.0 * student)) == pytest.approx(0.0, abs=1e-12)


def test_the_loss_is_the_sum_of_its_terms(make_distillation, make_batch) -> None:
    batch = make_batch(8, labels=torch.arange(8) % 3)
    output = make_distillation(alpha=0.3, hint=2.0, similarity=7.0)(batch)
    terms = {name: float(value) for name, value in output.metrics.items()}
    expected = 0.7 * terms["hard_loss"] + 0.3 * terms["soft_loss"] + 2 * terms["hint_loss"] + 7 * terms["similar_loss"]
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert min(terms[name] for name in ("hard_loss", "soft_loss", "hint_loss", "similar_loss")) > 0.0


def test_images_without_a_label_learn_of_the_teacher_alone(make_distillation, make_batch) -> None:
    labels = torch.tensor([0, 1, -1, -1, -1, -1, -1, -1])
    batch = make_batch(8, labels=labels)
    objective = make_distillation(labelled_share=0.25)
    # With the statistics of evaluation images do not meet.
    objective.eval()
    mixed, metrics = objective(batch)
    of_two = Batch(*(tensor[:2] for tensor in batch))
    hard = make_distillation(labelled_share=1.0).eval()(of_two).metrics["hard_loss"]
    assert float(metrics["hard_loss"]) == pytest.approx(float(hard), rel=1e-5)
    assert float(mixed.detach()) == pytest.approx(0.5 * float(hard) + 0.5 * float(metrics["soft_loss"]), rel=1e-5)
    # No label of theirs is read, whichever class would stand first.
    alone = make_distillation(alpha=1.0).eval()(batch._replace(labels=torch.full((8,), -1)))
    assert float(alone.loss.detach()) == pytest.approx(float(metrics["soft_loss"]), rel=1e-5)


def test_micro_batches_add_up_with_labels_in_some_of_them(make_distillation, make_batch, runtime) -> None:
    batch = make_batch(9, labels=torch.tensor([0, 1, 2, -1, -1, -1, -1, -1, -1]))
    gradients = []
    for count in (1, 3):
        objective = make_distillation("transformer", hint=1.0, labelled_share=1 / 3)
        output = accumulate_gradient(objective, batch, count, runtime.accelerator)
        gradients.append([parameter.grad for parameter in objective.parameters()])
        gradients[-1].append(torch.stack([output.metrics["accuracy"], output.metrics["hard_loss"]]))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_never_trained(make_distillation, make_teacher, make_batch) -> None:
    """Bitwise equal after many steps in training mode, without gradients, in no state and no group."""
    teacher = make_teacher()
    parts = (teacher.classifier.backbone, teacher.classifier.head)
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in parts]
    objective = make_distillation(teacher=teacher, hint=1.0)
    groups = parameter_groups(objective, learning_rate=1e-2, weight_decay=0.1)
    optimizer = torch.optim.AdamW([{"params": group["params"]} for group in groups])
    for number in range(8):
        objective.train()
        batch = make_batch(8, labels=torch.arange(8) % 3, seed=number)
        objective(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    theirs = {id(parameter) for part in parts for parameter in part.parameters()}
    assert len(theirs) > 20
    assert not theirs & {id(parameter) for group in groups for parameter in group["params"]}
    assert not theirs & {id(parameter) for parameter in objective.parameters()}
    for part, state in zip(parts, before, strict=True):
        assert not any(module.training for module in part.modules())
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in part.parameters())
        assert [name for name, value in part.state_dict().items() if not torch.equal(value, state[name])] == []
    assert {name.split(".")[0] for name in objective.state_dict()} == {"student", "projector"}
    assert objective.student.backbone.training


def test_the_teacher_speaks_the_order_of_the_data(make_teacher, make_supervised, make_batch) -> None:
    teacher, batch = make_teacher(), make_batch(4)
    found = teacher(batch, student=make_supervised())
    views = augment(batch.images, batch.keys, view=0, size=16, config=SUPERVISED_DEFAULT)
    with torch.no_grad():
        own = teacher.classifier.head(teacher.classifier.backbone(views))
    assert torch.equal(found.logits, own[:, [2, 0, 1]])


def seen_by(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    views: list[Tensor] = []
    features = Classifier.features
    monkeypatch.setattr(Classifier, "features", lambda self, images: (views.append(images), features(self, images))[1])
    return views


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("view", ["same", "plain"])
def test_views_are_shared(make_distillation, make_teacher, make_batch, monkeypatch, size: int, view: str) -> None:
    """The same crop for both, at each one's size; each normalises by itself."""
    teacher, batch = make_teacher(size=size, view=view), make_batch(4)
    objective = make_distillation(teacher=teacher, alpha=1.0)
    views = seen_by(teacher, monkeypatch)
    objective(batch)
    if view == "plain":
        expected = evaluation_view(batch.images, size=size)
    else:
        expected = augment(batch.images, batch.keys, view=0, size=size, config=SUPERVISED_DEFAULT)
    assert len(views) == 1
    assert torch.equal(views[0], expected)
    assert float(views[0].min()) >= 0.0
    # What the student saw is the same picture.
    small = torch.nn.functional.interpolate(views[0], size=(16, 16), mode="bilinear", antialias=True)
    own = augment(batch.images, batch.keys, view=0, size=16, config=SUPERVISED_DEFAULT)
    assert (float((small - own).abs().mean()) < 0.03) == (view == "same")


def test_without_augmentation_the_teacher_sees_what_evaluation_sees(
    make_distillation, make_teacher, make_batch, monkeypatch
) -> None:
    teacher, batch = make_teacher(size=24), make_batch(4)
    objective = make_distillation(teacher=teacher, alpha=1.0)
    objective.student.set_trained("all", augmented=False)
    views = seen_by(teacher, monkeypatch)
    objective(batch)
    assert torch.equal(views[0], evaluation_view(batch.images, size=24))


def test_hints_between_maps_are_refused(make_backbone, make_teacher) -> None:
    backbone = make_backbone()
    head = make_head(HeadConfig(pooling="attention"), backbone, 3)
    student = Supervised(backbone, head, SupervisedConfig(), num_classes=3)
    with pytest.raises(InputError, match="pooled features"):
        Distillation(student, make_teacher(), DistillationConfig(hint=1.0))
    # What is alike can be asked of maps too.
    Distillation(student, make_teacher(), DistillationConfig(similarity=1.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"alpha": 1.1}, "alpha 1.1"),
        ({"hint": -1.0}, "may be negative"),
        ({"alpha": 0.0}, "nothing is learnt"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistillationConfig(**settings)
