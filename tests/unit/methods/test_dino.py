import copy
import math
from dataclasses import replace

import pytest
import torch
from lightly.loss import DINOLoss

from ssl_transfer.data.transforms.augment import augment
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.gradients import split
from ssl_transfer.methods.dino import DINO, DINOConfig

PROTOTYPES = 12


def build(backbone, **settings) -> DINO:
    small = {"hidden_width": 16, "bottleneck_width": 8, "output_width": PROTOTYPES, "local_crops": 2, "frozen_steps": 0}
    return DINO(backbone, DINOConfig(**{**small, **settings})).train()


def outputs(student_views: int, images: int = 5):
    """Cosines of the student's and the teacher's views with the prototypes, (V, B, P) and (2, B, P)."""
    drawn = torch.rand(student_views + 2, images, PROTOTYPES, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    return drawn[:student_views], drawn[student_views:]


def probabilities(values: list[float]) -> list[float]:
    weights = [math.exp(value) for value in values]
    return [weight / sum(weights) for weight in weights]


def naive_loss(student, teacher, centre, *, teacher_temperature: float, student_temperature: float) -> float:
    """Equations 1 to 4 of the paper, term by term in float64."""
    total, pairs = 0.0, 0
    for one, theirs in enumerate(teacher.double()):
        for other, mine in enumerate(student.double()):
            if one == other:
                continue
            pairs += 1
            for target, answer in zip(theirs, mine, strict=True):
                wanted = probabilities(((target - centre.double()) / teacher_temperature).tolist())
                given = probabilities((answer / student_temperature).tolist())
                total -= sum(p * math.log(q) for p, q in zip(wanted, given, strict=True)) / len(mine)
    return total / pairs


@pytest.mark.parametrize("views", [2, 5])
def test_loss_against_a_naive_loop_and_lightly(make_backbone, views):
    method = build(make_backbone(), student_temperature=0.2, teacher_temperature=0.07, first_teacher_temperature=0.07)
    method.centre.copy_(torch.linspace(-0.3, 0.2, PROTOTYPES))
    student, teacher = outputs(views)
    found = float(method.cross_entropy(student, teacher))
    expected = naive_loss(student, teacher, method.centre, teacher_temperature=0.07, student_temperature=0.2)
    assert found == pytest.approx(expected, rel=1e-5)
    peer = DINOLoss(PROTOTYPES, teacher_temp=0.07, student_temp=0.2)
    peer.center.copy_(method.centre)
    assert found == pytest.approx(float(peer(list(teacher), list(student))), rel=1e-5)


def test_the_centre_moves_as_lightlys(make_backbone, make_batch):
    method = build(make_backbone())
    peer = DINOLoss(PROTOTYPES, center_momentum=0.9)
    said = []
    method.teacher_head.register_forward_hook(lambda _module, _inputs, output: said.append(output))
    for seed in range(3):
        method(make_batch(6, seed=seed))
        method.after_step(seed / 3)
        peer.update_center(said[-1].unflatten(0, (2, -1)))
        torch.testing.assert_close(method.centre, peer.center.flatten(), rtol=1e-5, atol=1e-7)
    assert float(method.centre.abs().max()) > 1e-3
    assert float(method.teacher_count) == 0.0


def test_the_centre_is_that_of_the_whole_batch_in_micro_batches(make_backbone, make_batch):
    """A transformer's outputs do not depend on who else is in the batch, so the centre must not either."""
    whole = build(make_backbone("transformer"))
    parted, batch = copy.deepcopy(whole), make_batch(7)
    whole(batch)
    for part in split(batch, 3):
        parted(part)
        assert torch.equal(parted.centre, torch.zeros(PROTOTYPES))
    for method in (whole, parted):
        method.after_step(0.0)
    assert float(whole.centre.abs().max()) > 1e-3
    torch.testing.assert_close(parted.centre, whole.centre, rtol=1e-5, atol=1e-7)


def test_measuring_leaves_the_centre_alone(make_backbone, make_batch):
    method = build(make_backbone()).eval()
    method(make_batch(6))
    assert float(method.teacher_count) == 0.0


def test_centre_and_sharpening_keep_each_other_in_check(make_backbone):
    """Section 5.3: sharpening alone lets one prototype win everywhere, the centre alone makes all of them alike."""
    method = build(make_backbone())
    _, teacher = outputs(2, images=400)
    teacher[:, :, 0] += 2.0
    sharp = torch.softmax((teacher - method.centre) / 0.04, dim=2)
    assert float(sharp.mean(dim=(0, 1))[0]) > 0.9
    method.centre.copy_(teacher.mean(dim=(0, 1)))
    centred = torch.softmax((teacher - method.centre) / 0.04, dim=2)
    assert float(centred.mean(dim=(0, 1)).max()) < 2 / PROTOTYPES
    entropy = -(centred * centred.clamp(min=1e-30).log()).sum(dim=2).mean()
    blurred = torch.softmax(teacher - method.centre, dim=2)
    assert float(entropy) < 1.0 < 0.9 * math.log(PROTOTYPES) < float(-(blurred * blurred.log()).sum(dim=2).mean())


def test_the_teachers_temperature_warms_up_along_a_line(make_backbone):
    method = build(make_backbone(), first_teacher_temperature=0.04, teacher_temperature=0.07, temperature_steps=3)
    found = []
    for _ in range(6):
        found.append(float(method.teacher_temperature()))
        method.steps += 1
    assert found == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07, 0.07])
    assert float(build(make_backbone(), teacher_temperature=0.05, first_teacher_temperature=0.05).teacher_temperature())
    with pytest.raises(InputError, match=r"first_teacher_temperature 0\.04 would be ignored"):
        build(make_backbone(), teacher_temperature=0.05)


def test_prototypes_rest_in_the_first_steps(make_backbone, make_batch):
    method = build(make_backbone(), frozen_steps=2)
    moved = []
    for number in range(3):
        method.zero_grad()
        method(make_batch(6)).loss.backward()
        moved.append(float(method.head.prototypes.weight.grad.abs().max()) > 0.0)
        assert float(method.head.layers[0].weight.grad.abs().max()) > 0.0
        method.after_step(number / 3)
    assert moved == [False, False, True]


def test_nothing_flows_into_the_teacher(make_backbone, make_batch):
    method, said = build(make_backbone()), []
    method.teacher_head.register_forward_hook(lambda _module, _inputs, output: said.append(output))
    method(make_batch(6)).loss.backward()
    assert len(said) == 1
    assert not said[0].requires_grad
    slow = [*method.teacher_backbone.parameters(), *method.teacher_head.parameters()]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in slow)


@pytest.mark.parametrize(("kind", "side"), [("convolutional", 7), ("transformer", 6)])
def test_the_teacher_sees_global_crops_and_the_student_all(make_backbone, make_batch, kind, side):
    """Local crops are 96 / 224 of 16 px: 7 px, or three patches of 2 px. Their views have numbers of their own."""
    method, batch = build(make_backbone(kind), local_crops=3, local_scale=(0.1, 0.3)), make_batch(4)
    defaults = DINOConfig()
    seen: dict[str, list] = {"student": [], "teacher": []}
    for name, backbone in (("student", method.backbone), ("teacher", method.teacher_backbone)):
        backbone.register_forward_hook(lambda _module, inputs, _output, name=name: seen[name].append(inputs[0]))
    method(batch)
    assert [images.shape for images in seen["teacher"]] == [(8, 3, 16, 16)]
    assert [images.shape for images in seen["student"]] == [(8, 3, 16, 16), (12, 3, side, side)]
    assert torch.equal(seen["student"][0], seen["teacher"][0])
    local = replace(defaults.augment, blur=0.5, crop_scale=(0.1, 0.3))
    for view, config, size, images in (
        (0, defaults.augment, 16, seen["student"][0][:4]),
        (1, defaults.second_augment, 16, seen["student"][0][4:]),
        (2, local, side, seen["student"][1][:4]),
        (4, local, side, seen["student"][1][8:]),
    ):
        expected = augment(batch.images, batch.keys, view=view, size=size, config=config)
        torch.testing.assert_close(images, expected)


def test_without_local_crops(make_backbone, make_batch):
    method, seen = build(make_backbone(), local_crops=0), []
    method.backbone.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape))
    loss = method(make_batch(4)).loss
    assert seen == [(8, 3, 16, 16)]
    assert bool(loss.isfinite())


def test_the_state_holds_all_that_moves(make_backbone, make_batch):
    method = build(make_backbone())
    method(make_batch(6))
    method.after_step(0.1)
    state = method.state_dict()
    assert {"centre", "teacher_sum", "teacher_count", "steps"} <= state.keys()
    other = build(make_backbone(seed=3))
    other.load_state_dict(state)
    assert int(other.steps) == 1
    assert float(other(make_batch(6)).loss.detach()) == float(method(make_batch(6)).loss.detach())


def test_loss_is_float32_under_autocast(make_backbone, make_batch):
    method, answers = build(make_backbone("transformer")), []
    twin = copy.deepcopy(method)
    method.head.register_forward_hook(lambda _module, _inputs, output: answers.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(make_batch(6)).loss
    assert loss.dtype == torch.float32
    # A temperature of 0.04 makes 25 times as much of what bfloat16 would round away.
    assert answers == [torch.float32]
    assert float(loss.detach()) == pytest.approx(float(twin(make_batch(6)).loss.detach()), rel=0.05)


@pytest.mark.parametrize(
    "settings",
    [
        {"teacher_temperature": 0.0},
        {"student_temperature": -1.0},
        {"local_crops": -1},
        {"local_size": 0.0},
        {"local_size": 1.5},
        {"frozen_steps": -1},
        {"centre_momentum": 1.0},
        {"momentum": 2.0},
    ],
)
def test_impossible_settings_are_refused(make_backbone, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        build(make_backbone(), **settings)
