import copy

import pytest
import torch

from ssl_transfer.engine.optimization.optimizers import OptimizerConfig, make_optimizer, parameter_groups
from ssl_transfer.models.heads import HeadConfig, make_head
from ssl_transfer.objectives.supervised import Supervised, SupervisedConfig

LABELS = torch.arange(12) % 3


@pytest.fixture(params=["convolutional", "transformer"])
def objective(make_backbone, request) -> Supervised:
    backbone = make_backbone(request.param)
    torch.manual_seed(1)
    return Supervised(backbone, make_head(HeadConfig(), backbone, 3), SupervisedConfig(), num_classes=3)


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
        assert same == (not name.startswith("head.layers")), name


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
    assert objective.head.layers[0].weight.grad.abs().max() > 0


def test_loss_is_cross_entropy(objective, make_batch):
    objective.set_trained("head")
    objective.train()
    torch.nn.init.zeros_(objective.head.layers[0].weight)
    output = objective(make_batch(12, labels=LABELS))
    assert float(output.loss.detach()) == pytest.approx(torch.tensor(3.0).log().item())
    assert float(output.metrics["accuracy"]) == pytest.approx(1 / 3)


def test_label_smoothing_keeps_the_loss_above_zero(make_backbone, make_batch):
    losses = []
    for smoothing in (0.0, 0.3):
        backbone = make_backbone()
        head = make_head(HeadConfig(), backbone, 3)
        torch.nn.init.zeros_(head.layers[0].weight)
        head.layers[0].bias.data = torch.tensor([30.0, 0.0, 0.0])
        objective = Supervised(backbone, head, SupervisedConfig(label_smoothing=smoothing), num_classes=3)
        losses.append(float(objective(make_batch(6, labels=torch.zeros(6, dtype=torch.int64))).loss.detach()))
    # A share of 0.3 is spread over three classes: 0.2 of it on the two that the logits are 30 below.
    assert losses == pytest.approx([0.0, 0.2 * 30.0], abs=1e-4)


def test_logits_are_those_of_the_unaugmented_image(objective, make_batch):
    batch = make_batch(4)
    objective.eval()
    expected = objective.head(objective.backbone(batch.images))
    assert torch.allclose(objective.logits(batch.images), expected, atol=1e-5)


@pytest.mark.parametrize("trained", ["last:1", "first:1", "from:layer4", "all"])
def test_what_is_not_named_stays_bit_for_bit(make_backbone, make_batch, trained):
    backbone = make_backbone("convolutional")
    objective = Supervised(backbone, make_head(HeadConfig(), backbone, 3), SupervisedConfig(), num_classes=3)
    selection = objective.set_trained(trained)
    before = copy.deepcopy(objective.state_dict())
    step(objective, make_batch(12, labels=LABELS))
    moved = {name for name, value in objective.state_dict().items() if not torch.equal(value, before[name])}
    parameters = {f"backbone.model.{name}" for name in selection.parameters}
    assert parameters
    assert parameters <= moved
    named = {name for name, _ in objective.named_parameters()}
    assert {name for name in moved & named if name.startswith("backbone.")} == parameters
    # A buffer moves with the parameters of its layer, and with no others.
    layers = {name.rpartition(".")[0] for name in parameters}
    assert {name.rpartition(".")[0] for name in moved - named if name.startswith("backbone.")} <= layers
    if trained == "all":
        assert any("running_mean" in name for name in moved)


def test_statistics_can_be_kept_while_weights_are_trained(make_backbone, make_batch):
    backbone = make_backbone()
    head = make_head(HeadConfig(), backbone, 3)
    objective = Supervised(backbone, head, SupervisedConfig(), num_classes=3)
    objective.set_trained("all", keep_statistics=True)
    before = copy.deepcopy(objective.state_dict())
    step(objective, make_batch(12, labels=LABELS))
    state = objective.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in state if "running" in name)
    assert not torch.equal(state["backbone.model.conv1.weight"], before["backbone.model.conv1.weight"])


def test_class_weights_count_each_class_alike(make_backbone, make_batch):
    backbone, labels = make_backbone(), torch.tensor([0, 0, 0, 1])
    torch.manual_seed(0)
    head = make_head(HeadConfig(), backbone, 2)
    weights = torch.tensor([4 / 6, 4 / 2])
    objective = Supervised(backbone, head, SupervisedConfig(), num_classes=2, class_weights=weights)
    objective.set_trained("head")
    objective.train()
    batch = make_batch(4, labels=labels)
    logits = head(backbone(objective.view(batch.images, batch.keys)))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = 0.5 * losses[:3].mean() + 0.5 * losses[3]
    assert float(objective(batch).loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_mixed_labels_are_in_the_loss(make_backbone, make_batch):
    backbone = make_backbone()
    head = make_head(HeadConfig(), backbone, 3)
    objective = Supervised(backbone, head, SupervisedConfig(mixup=1.0), num_classes=3)
    objective.set_trained("head")
    objective.train()
    with torch.no_grad():
        head.layers[0].weight.zero_()
        head.layers[0].bias.copy_(torch.tensor([5.0, 0.0, 0.0]))
    labels = torch.tensor([0, 1, 1, 0, 1, 1])
    plain = torch.nn.functional.cross_entropy(torch.tensor([[5.0, 0.0, 0.0]]).expand(6, 3), labels)
    # The batch's classes are mixed, so their shares over the whole batch stay: the loss of constant scores too.
    assert float(objective(make_batch(6, labels=labels)).loss.detach()) == pytest.approx(float(plain), rel=1e-5)
