import pytest
import torch

from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods.byol import BYOL, BYOLConfig


def build(backbone, **settings) -> BYOL:
    return BYOL(backbone, BYOLConfig(**{"hidden_width": 16, "output_width": 8, **settings}))


def naive_regression(predictions, targets) -> float:
    """Equation 2 of the paper in float64: squared distances of unit vectors, averaged over images."""
    total = 0.0
    for prediction, target in zip(predictions.double(), targets.double(), strict=True):
        total += float((prediction / prediction.norm() - target / target.norm()).square().sum())
    return total / len(predictions)


def test_regression_against_the_paper(make_backbone):
    method = build(make_backbone())
    predictions, targets = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    assert float(method.regression(predictions, targets)) == pytest.approx(naive_regression(predictions, targets))
    assert float(method.regression(predictions, 3.0 * predictions)) == pytest.approx(0.0, abs=1e-6)
    assert float(method.regression(predictions, -predictions)) == pytest.approx(4.0)


def recorded(method: BYOL, batch, *, autocast: bool = False):
    """The loss, and what predictor and target projector gave for each view, in order."""
    predictions, targets = [], []
    handles = [
        method.predictor.register_forward_hook(lambda _module, _inputs, output: predictions.append(output)),
        method.target_projector.register_forward_hook(lambda _module, _inputs, output: targets.append(output)),
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = method(batch).loss
    for handle in handles:
        handle.remove()
    return loss, predictions, targets


@pytest.mark.parametrize("autocast", [False, True])
def test_each_view_predicts_the_target_of_the_other(make_backbone, make_batch, autocast):
    loss, (first, second), targets = recorded(build(make_backbone()), make_batch(8), autocast=autocast)
    assert loss.dtype == torch.float32
    assert first.dtype == (torch.bfloat16 if autocast else torch.float32)
    expected = naive_regression(first.detach(), targets[1]) + naive_regression(second.detach(), targets[0])
    assert float(loss.detach()) == pytest.approx(expected, rel=2e-6)
    crossed = naive_regression(first.detach(), targets[0]) + naive_regression(second.detach(), targets[1])
    assert crossed != pytest.approx(expected, rel=1e-3)


def test_bfloat16_stays_close_to_float32(make_backbone, make_batch):
    losses = [float(recorded(build(make_backbone()), make_batch(8), autocast=on)[0].detach()) for on in (False, True)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_nothing_flows_into_the_target(make_backbone, make_batch):
    method = build(make_backbone())
    loss, _, targets = recorded(method, make_batch(8))
    assert not any(target.requires_grad for target in targets)
    loss.backward()
    slow = [*method.target_backbone.parameters(), *method.target_projector.parameters()]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in slow)
    quick = [*method.projector.parameters(), *method.predictor.parameters()]
    assert all(float(parameter.grad.abs().max()) > 0.0 for parameter in quick)


def test_the_predictor_stands_on_one_side_only(make_backbone, make_batch):
    """Without it both sides would be one function: with equal weights, equal images would agree from the start."""
    method, images = build(make_backbone()), make_batch(8).images
    with torch.no_grad():
        projected = method.projector(method.backbone(images))
        target = method.target_projector(method.target_backbone(images))
        assert float(method.regression(projected, target)) < 1e-5
        assert float(method.regression(method.predictor(projected), target)) > 0.1


def test_the_target_follows(make_backbone):
    method = build(make_backbone(), momentum=0.9)
    with torch.no_grad():
        for parameter in [*method.backbone.parameters(), *method.projector.parameters()]:
            parameter.add_(1.0)
    pairs = [(method.target_backbone, method.backbone), (method.target_projector, method.projector)]
    before = [slow.clone() for one, _ in pairs for slow in one.parameters()]
    method.after_step(0.5)
    for old, slow in zip(before, [slow for one, _ in pairs for slow in one.parameters()], strict=True):
        assert torch.allclose(slow, old + 0.05, atol=1e-6)


def test_impossible_momentum_is_refused(make_backbone):
    with pytest.raises(InputError, match=r"momentum 1\.5"):
        build(make_backbone(), momentum=1.5)
