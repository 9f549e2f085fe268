import pytest
import torch
from lightly.loss import BarlowTwinsLoss
from scipy.linalg import hadamard
from torch import nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods.barlow_twins import Barlow, BarlowConfig


def naive_loss(first, second, redundancy_weight: float) -> torch.Tensor:
    """Equations 1 and 2 of the paper, correlation by correlation in float64; 1e-5 is lightly's guard of a deviation."""
    outputs = [(view.double() - view.double().mean(dim=0)).T for view in (first, second)]
    outputs = [[row / (row.pow(2).mean() + 1e-5).sqrt() for row in view] for view in outputs]
    total = torch.zeros((), dtype=torch.float64)
    for i, mine in enumerate(outputs[0]):
        for j, other in enumerate(outputs[1]):
            correlation = (mine * other).mean()
            total = total + ((1.0 - correlation) ** 2 if i == j else redundancy_weight * correlation**2)
    return total


def two_views(count: int = 12, width: int = 5):
    """Views that are related, with scales and means of their own, (count, width) float32 each."""
    generator = torch.Generator().manual_seed(0)
    common, noise = torch.randn(2, count, width, generator=generator)
    return 3.0 * common + 1.0, common + 0.5 * noise - 2.0


@pytest.fixture
def method(make_backbone) -> Barlow:
    return Barlow(make_backbone(), BarlowConfig(hidden_width=32, output_width=8))


@pytest.mark.parametrize("redundancy_weight", [5e-3, 0.5])
def test_loss_and_gradient_against_a_naive_double_loop(make_backbone, redundancy_weight):
    method = Barlow(make_backbone(), BarlowConfig(redundancy_weight=redundancy_weight))
    results = []
    for loss in (method.criterion, lambda a, b: naive_loss(a, b, redundancy_weight)):
        views = [view.requires_grad_() for view in two_views()]
        value = loss(*views)
        value.backward()
        results.append((float(value.detach()), *(view.grad for view in views)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for ours, naive in zip(results[0][1:], results[1][1:], strict=True):
        assert float(naive.abs().max()) > 1e-3
        torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_the_method_takes_the_loss_of_its_two_views_in_float32(method, make_batch, autocast):
    seen = []
    method.projector.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        loss = method(make_batch(16)).loss
    assert seen[0].dtype == (autocast or torch.float32)
    assert loss.dtype == torch.float32
    first, second = seen[0].float().chunk(2)
    assert float(loss.detach()) == pytest.approx(float(naive_loss(first, second, 5e-3)), rel=1e-5)
    assert float(loss.detach()) == pytest.approx(float(BarlowTwinsLoss(lambda_param=5e-3)(first, second)), rel=1e-6)


def test_identical_views_without_redundancy_have_no_loss(method):
    """Columns of a Hadamard matrix but the first: means of 0, deviations of 1, no correlation."""
    outputs = torch.from_numpy(hadamard(16)).float()[:, 1:]
    assert float(method.criterion(outputs, outputs)) < 1e-8
    # Scale and mean of an output play no part.
    assert float(method.criterion(outputs, 7.0 * outputs + 3.0)) < 1e-8


def test_repeated_outputs_cost_their_weight(method):
    """Of 4 outputs that are all the same each of 12 pairs costs lambda; of unrelated views each output costs 1."""
    outputs = torch.from_numpy(hadamard(16)).float()
    same = outputs[:, 1:2].expand(-1, 4)
    assert float(method.criterion(same, same)) == pytest.approx(12 * 5e-3, rel=1e-3)
    assert float(method.criterion(outputs[:, 1:5], outputs[:, 5:9])) == pytest.approx(4.0, rel=1e-5)


def test_the_projector(method):
    layers = [layer for layer in method.projector if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [32, 32, 8]
    assert layers[-1].bias is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"redundancy_weight": 0.0}, r"redundancy_weight 0\.0"), ({"projector_layers": 1}, "projector_layers 1")],
)
def test_impossible_settings_are_refused(make_backbone, settings, message):
    with pytest.raises(InputError, match=message):
        Barlow(make_backbone(), BarlowConfig(**settings))
