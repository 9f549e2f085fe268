import pytest
import torch
from lightly.loss import VICRegLoss
from scipy.linalg import hadamard

from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods.vicreg import VICReg, VICRegConfig


def naive_loss(first, second, weights=(25.0, 25.0, 1.0)) -> torch.Tensor:
    """The paper's terms with the means of the authors' code, output by output in float64."""
    invariance = (first.double() - second.double()).pow(2).mean()
    variance, covariance = torch.zeros(2, dtype=torch.float64).unbind()
    for view in (first, second):
        outputs = (view.double() - view.double().mean(dim=0)).T
        count, width = len(view), len(outputs)
        for i in range(width):
            spread = (outputs[i].pow(2).sum() / (count - 1) + 1e-4).sqrt()
            variance = variance + (1.0 - spread).clamp(min=0.0) / width / 2
            for j in range(width):
                if i != j:
                    covariance = covariance + ((outputs[i] * outputs[j]).sum() / (count - 1)) ** 2 / width
    return weights[0] * invariance + weights[1] * variance + weights[2] * covariance


def two_views(count: int = 12, width: int = 5):
    """Views that are related; the hinge holds some outputs and not others. (count, width) float32 each."""
    generator = torch.Generator().manual_seed(0)
    common, noise = torch.randn(2, count, width, generator=generator)
    scales = torch.linspace(0.3, 2.0, width)
    return common * scales + 1.0, (common + 0.5 * noise) * scales


def unit_outputs(width: int) -> torch.Tensor:
    """Uncorrelated outputs of mean 0 and variance 1 over 16 images, (16, width) float32."""
    return torch.from_numpy(hadamard(16)).float()[:, 1 : width + 1] * (15 / 16) ** 0.5


@pytest.fixture
def method(make_backbone) -> VICReg:
    return VICReg(make_backbone(), VICRegConfig(hidden_width=32, output_width=8))


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 10.0, 5.0)])
def test_loss_and_gradient_against_a_naive_double_loop(make_backbone, weights):
    names = ("invariance_weight", "variance_weight", "covariance_weight")
    method = VICReg(make_backbone(), VICRegConfig(**dict(zip(names, weights, strict=True))))
    results = []
    for loss in (method.criterion, lambda a, b: naive_loss(a, b, weights)):
        views = [view.requires_grad_() for view in two_views()]
        value = loss(*views)
        value.backward()
        results.append((float(value.detach()), *(view.grad for view in views)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for ours, naive in zip(results[0][1:], results[1][1:], strict=True):
        assert float(naive.abs().max()) > 1e-2
        torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_the_method_takes_the_loss_of_its_two_views_in_float32(method, make_batch, autocast):
    seen = []
    method.projector.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach()))
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        loss = method(make_batch(16)).loss
    assert seen[0].dtype == (autocast or torch.float32)
    assert loss.dtype == torch.float32
    first, second = seen[0].float().chunk(2)
    assert float(loss.detach()) == pytest.approx(float(naive_loss(first, second)), rel=1e-5)
    assert float(loss.detach()) == pytest.approx(float(VICRegLoss()(first, second)), rel=1e-6)


def test_the_variance_hinge(method):
    """Nothing to pay from a deviation of 1 on; below it 25 times what is missing, both views together."""
    outputs = unit_outputs(8)
    for scale in (1.0, 5.0):
        assert float(method.criterion(scale * outputs, scale * outputs)) == pytest.approx(0.0, abs=1e-6)
    half = 0.5 * outputs
    assert float(method.criterion(half, half)) == pytest.approx(25.0 * (1.0 - (0.25 + 1e-4) ** 0.5), rel=1e-5)
    collapsed = torch.full((16, 8), 3.0)
    assert float(method.criterion(collapsed, collapsed)) == pytest.approx(25.0 * 0.99, rel=1e-5)


def test_distance_and_repetition_cost_their_weights(method):
    outputs = unit_outputs(4)
    assert float(method.criterion(outputs, outputs + 0.5)) == pytest.approx(25.0 * 0.25, rel=1e-5)
    # Of 4 outputs that are the same, 12 pairs have a covariance of 1: 12 / 4 for each view.
    same = outputs[:, :1].expand(-1, 4)
    assert float(method.criterion(same, same)) == pytest.approx(2 * 3.0, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"invariance_weight": 0.0}, r"invariance_weight 0\.0"),
        ({"variance_weight": 0.0}, r"variance_weight 0\.0"),
        ({"covariance_weight": -1.0}, r"covariance_weight -1\.0"),
        ({"projector_layers": 1}, "projector_layers 1"),
    ],
)
def test_impossible_settings_are_refused(make_backbone, settings, message):
    with pytest.raises(InputError, match=message):
        VICReg(make_backbone(), VICRegConfig(**settings))
