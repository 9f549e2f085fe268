import math

import pytest
import torch
from torch import nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods.simclr import SimCLR, SimCLRConfig


def naive_loss(first, second, temperature: float) -> float:
    """Equation 1 of the paper, term by term in float64."""
    views = torch.cat([first, second]).double()
    views = views / views.norm(dim=1, keepdim=True)
    count = len(first)
    total = 0.0
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        weights = [math.exp(float(views[i] @ views[k]) / temperature) for k in range(2 * count)]
        total -= math.log(weights[partner] / sum(weights[k] for k in range(2 * count) if k != i))
    return total / (2 * count)


@pytest.fixture
def method(make_backbone) -> SimCLR:
    return SimCLR(make_backbone(), SimCLRConfig(hidden_width=32, output_width=8, temperature=0.2))


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_loss_against_a_naive_double_loop(make_backbone, temperature):
    method = SimCLR(make_backbone(), SimCLRConfig(temperature=temperature))
    first, second = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    assert float(method.criterion(first, second)) == pytest.approx(naive_loss(first, second, temperature), rel=1e-5)


def projections(method: SimCLR, batch, *, autocast: torch.dtype | None):
    """The loss, and the projections that it was taken of."""
    seen = []
    handle = method.projector.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        loss = method(batch).loss
    handle.remove()
    return loss, seen[0]


@pytest.mark.parametrize("temperature", [0.01, 0.2])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_the_method_takes_the_loss_of_its_two_views_in_float32(make_backbone, make_batch, autocast, temperature):
    """At a temperature of 0.01 the logits reach 100: exponentials in half precision would overflow."""
    config = SimCLRConfig(hidden_width=32, output_width=8, temperature=temperature)
    loss, projected = projections(SimCLR(make_backbone(), config), make_batch(8), autocast=autocast)
    assert projected.dtype == (autocast or torch.float32)
    assert loss.dtype == torch.float32
    # The tolerance is float32's: at bfloat16's precision the loss would be wrong in the third digit.
    naive = naive_loss(*projected.detach().float().chunk(2), temperature)
    assert float(loss.detach()) == pytest.approx(naive, rel=4e-7 / temperature)


def test_bfloat16_stays_close_to_float32(method, make_batch):
    batch = make_batch(8)
    exact, _ = projections(method, batch, autocast=None)
    rounded, _ = projections(method, batch, autocast=torch.bfloat16)
    assert float(rounded.detach()) == pytest.approx(float(exact.detach()), rel=0.03)


@pytest.mark.parametrize("count", [4, 16])
def test_a_collapsed_representation_has_the_loss_of_guessing(make_backbone, make_batch, count):
    class Constant(nn.Module):
        def forward(self, features):
            return torch.ones(len(features), 8)

    method = SimCLR(make_backbone(), SimCLRConfig())
    method.projector = Constant()
    assert float(method(make_batch(count)).loss) == pytest.approx(math.log(2 * count - 1), rel=1e-6)


def test_feature_deviation_tells_of_collapse(make_backbone, make_batch):
    method = SimCLR(make_backbone(), SimCLRConfig())
    healthy = float(method(make_batch(16)).metrics["feature_deviation"])
    batch = make_batch(1)
    same = batch._replace(images=batch.images.expand(16, -1, -1, -1) * 0, keys=make_batch(16).keys)
    collapsed = float(method(same).metrics["feature_deviation"])
    assert healthy > 0.1
    assert collapsed < 0.01


@pytest.mark.parametrize("layers", [2, 3])
def test_depth_of_the_projector(make_backbone, layers):
    method = SimCLR(make_backbone(), SimCLRConfig(projector_layers=layers, hidden_width=32, output_width=8))
    widths = [layer.out_features for layer in method.projector if isinstance(layer, nn.Linear)]
    assert widths == [*[32] * (layers - 1), 8]


def test_a_projector_of_one_layer_is_refused(make_backbone):
    with pytest.raises(InputError, match="projector_layers 1"):
        SimCLR(make_backbone(), SimCLRConfig(projector_layers=1))


def test_temperature_must_be_positive(make_backbone):
    with pytest.raises(InputError, match=r"temperature 0\.0"):
        SimCLR(make_backbone(), SimCLRConfig(temperature=0.0))
