import copy

import pytest
import torch

from ssl_transfer.data.augment import SUPERVISED_DEFAULT
from ssl_transfer.engine.optim import OptimizerConfig, make_optimizer, parameter_groups
from ssl_transfer.models.heads import LinearHead
from ssl_transfer.objectives.supervised import Supervised

LABELS = torch.arange(12) % 3


@pytest.fixture(params=["convolutional", "transformer"])
def objective(make_backbone, request) -> Supervised:
    backbone = make_backbone(request.param)
    torch.manual_seed(1)
    return Supervised(backbone, LinearHead(backbone.num_features, 3), augment=SUPERVISED_DEFAULT)


def step(objective, batch, count=3) -> None:
    groups = parameter_groups(objective, learning_rate=0.01, weight_decay=0.1)
    optimizer = make_optimizer(OptimizerConfig(), groups)
    for _ in range(count):
        objective.train()
        optimizer.zero_grad()
        objective(batch).loss.backward()
        optimizer.step()


def test_a_frozen_backbone_stays_bit_for_bit(objective, make_batch):
    before = copy.deepcopy(objective.state_dict())
    objective.set_trained("head")
    step(objective, make_batch(12, labels=LABELS))
    for name, value in objective.state_dict().items():
        same = torch.equal(value, before[name])
        assert same == (not name.startswith("head.linear")), name


def test_a_frozen_backbone_stays_in_evaluation_mode(objective):
    objective.set_trained("head")
    objective.train()
    assert objective.training
    assert objective.head.training
    assert not any(module.training for module in objective.backbone.modules())
    assert not any(parameter.requires_grad for parameter in objective.backbone.parameters())


def test_a_freed_backbone_moves(objective, make_batch):
    objective.set_trained("head")
    objective.train()
    before = copy.deepcopy(objective.state_dict())
    objective.set_trained("all")
    objective.train()
    assert all(module.training for module in objective.modules())
    step(objective, make_batch(12, labels=LABELS), count=1)
    unmoved = [name for name, value in objective.state_dict().items() if torch.equal(value, before[name])]
    assert unmoved == ["head.scale"]


def test_the_head_phase_builds_no_graph_through_the_backbone(objective, make_batch):
    objective.set_trained("head")
    objective.train()
    features = []
    objective.backbone.register_forward_hook(lambda _module, _inputs, output: features.append(output))
    objective(make_batch(12, labels=LABELS)).loss.backward()
    assert not features[0].requires_grad
    assert all(parameter.grad is None for parameter in objective.backbone.parameters())
    assert objective.head.linear.weight.grad.abs().max() > 0


def test_loss_is_cross_entropy(objective, make_batch):
    objective.set_trained("head")
    objective.train()
    torch.nn.init.zeros_(objective.head.linear.weight)
    output = objective(make_batch(12, labels=LABELS))
    assert float(output.loss.detach()) == pytest.approx(torch.tensor(3.0).log().item())
    assert float(output.metrics["accuracy"]) == pytest.approx(1 / 3)


def test_label_smoothing_keeps_the_loss_above_zero(make_backbone, make_batch):
    losses = []
    for smoothing in (0.0, 0.3):
        head = LinearHead(16, 3)
        torch.nn.init.zeros_(head.linear.weight)
        head.linear.bias.data = torch.tensor([30.0, 0.0, 0.0])
        objective = Supervised(make_backbone(), head, augment=SUPERVISED_DEFAULT, label_smoothing=smoothing)
        losses.append(float(objective(make_batch(6, labels=torch.zeros(6, dtype=torch.int64))).loss.detach()))
    # A share of 0.3 is spread over three classes: 0.2 of it on the two that the logits are 30 below.
    assert losses == pytest.approx([0.0, 0.2 * 30.0], abs=1e-4)


def test_logits_are_those_of_the_unaugmented_image(objective, make_batch):
    batch = make_batch(4)
    objective.eval()
    expected = objective.head(objective.backbone(batch.images))
    assert torch.allclose(objective.logits(batch.images), expected, atol=1e-5)
