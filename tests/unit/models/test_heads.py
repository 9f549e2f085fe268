"""Heads: the scale, each kind's layers, each pooling by hand, and one logit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.models.heads import Head, HeadConfig, Pooling, features_for, make_head
from ssl_transfer.objectives.supervised import Supervised, SupervisedConfig

KINDS = [
    HeadConfig(),
    HeadConfig(dropout=0.3),
    HeadConfig(kind="hidden", dropout=0.3),
    HeadConfig(kind="flatten-256"),
    HeadConfig(pooling="average"),
    HeadConfig(pooling="max"),
    HeadConfig(pooling="attention"),
    HeadConfig(kind="hidden", pooling="average"),
]


def linear_head(num_features: int, num_scores: int) -> Head:
    return Head(nn.Identity(), nn.Sequential(nn.Linear(num_features, num_scores)), takes_maps=False)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_calibration_takes_the_scale_of_the_features_out(scale):
    torch.manual_seed(0)
    head = linear_head(8, 3)
    features = torch.randn(200, 8)
    head.calibrate(features)
    expected = head(features)
    head.calibrate(scale * features)
    assert torch.allclose(head(scale * features), expected, atol=1e-5)
    assert float((scale * features * head.scale).square().mean()) == pytest.approx(1.0, rel=1e-4)


def test_one_number_for_all_dimensions():
    head = linear_head(4, 2)
    features = torch.tensor([[1.0, 10.0, 0.0, 0.0], [1.0, 10.0, 0.0, 0.0]])
    head.calibrate(features)
    scaled = features * head.scale
    assert torch.allclose(scaled[:, 1], 10.0 * scaled[:, 0])


def test_features_of_zeros_do_not_divide_by_zero():
    head = linear_head(4, 2)
    head.calibrate(torch.zeros(3, 4))
    assert torch.isfinite(head(torch.zeros(3, 4))).all()


def test_the_scale_is_state_and_is_not_trained():
    head = linear_head(4, 2)
    head.calibrate(torch.full((3, 4), 5.0))
    assert set(dict(head.named_parameters())) == {"layers.0.weight", "layers.0.bias"}
    other = linear_head(4, 2)
    other.load_state_dict(head.state_dict())
    assert float(other.scale) == pytest.approx(0.2)


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
def test_every_head_gives_a_score_for_each_class_and_learns(make_backbone, kind, config):
    backbone = make_backbone(kind).eval()
    head = make_head(config, backbone, 5)
    features = features_for(head, backbone, torch.rand(6, 3, 16, 16))
    scores = head(features)
    assert scores.shape == (6, 5)
    scores.square().mean().backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []


def test_the_layers_of_each_kind(make_backbone):
    backbone = make_backbone()

    def names(config: HeadConfig) -> list[str]:
        return [type(layer).__name__ for layer in make_head(config, backbone, 5).layers]

    assert names(HeadConfig()) == ["Linear"]
    assert names(HeadConfig(dropout=0.1)) == ["Dropout", "Linear"]
    hidden = ["BatchNorm1d", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert names(HeadConfig(kind="hidden", dropout=0.1)) == hidden
    assert names(HeadConfig(kind="flatten-256")) == ["Linear", "ReLU", "Linear"]


def test_pooling_of_a_map():
    maps = torch.arange(24.0).view(1, 2, 3, 4)
    assert Pooling("average", 2, 0)(maps).tolist() == [[5.5, 17.5]]
    assert Pooling("max", 2, 0)(maps).tolist() == [[11.0, 23.0]]


def test_pooling_of_tokens_leaves_the_class_token_to_itself():
    tokens = torch.tensor([[[100.0, 100.0], [1.0, 2.0], [3.0, 6.0]]])
    assert Pooling("token", 2, 1)(tokens).tolist() == [[100.0, 100.0]]
    assert Pooling("average", 2, 1)(tokens).tolist() == [[2.0, 4.0]]
    assert Pooling("max", 2, 1)(tokens).tolist() == [[3.0, 6.0]]
    attention = Pooling("attention", 2, 1)
    with torch.no_grad():
        attention.query.weight.copy_(torch.tensor([[1.0, 0.0]]))
    weight = float(torch.sigmoid(torch.tensor(2.0)))
    expected = [[3.0 * weight + 1.0 * (1 - weight), 6.0 * weight + 2.0 * (1 - weight)]]
    assert torch.allclose(attention(tokens), torch.tensor(expected))


def test_a_class_token_must_be_there(make_backbone):
    with pytest.raises(InputError, match="no class token"):
        make_head(HeadConfig(pooling="token"), make_backbone(), 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropout": 1.0}, "below 1"),
        ({"kind": "flatten-256", "pooling": "max"}, "ignored"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        HeadConfig(**settings)


def test_one_logit_is_for_two_classes(make_backbone):
    with pytest.raises(InputError, match="two classes apart; these are 3"):
        make_head(HeadConfig(one_logit=True), make_backbone(), 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_logit_is_binary_cross_entropy(make_backbone, make_batch, smoothing):
    backbone = make_backbone()
    torch.manual_seed(0)
    head = make_head(HeadConfig(one_logit=True), backbone, 2)
    objective = Supervised(backbone, head, SupervisedConfig(label_smoothing=smoothing), num_classes=2)
    objective.set_trained("head")
    objective.train()
    batch = make_batch(8, labels=torch.arange(8) % 2)
    images = objective.view(batch.images, batch.keys)
    scores = head(backbone(images))
    assert scores.shape == (8, 1)
    targets = batch.labels.float() * (1 - smoothing) + smoothing / 2
    expected = F.binary_cross_entropy_with_logits(scores[:, 0], targets)
    assert float(objective(batch).loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert torch.allclose(objective.logits(batch.images).softmax(dim=1).sum(dim=1), torch.ones(8))
