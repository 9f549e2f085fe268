import pytest
import torch

from ssl_transfer.models.heads import LinearHead


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_calibration_takes_the_scale_of_the_features_out(scale):
    torch.manual_seed(0)
    head = LinearHead(8, 3)
    features = torch.randn(200, 8)
    head.calibrate(features)
    expected = head(features)
    head.calibrate(scale * features)
    assert torch.allclose(head(scale * features), expected, atol=1e-5)
    assert float((scale * features * head.scale).square().mean()) == pytest.approx(1.0, rel=1e-4)


def test_one_number_for_all_dimensions():
    head = LinearHead(4, 2)
    features = torch.tensor([[1.0, 10.0, 0.0, 0.0], [1.0, 10.0, 0.0, 0.0]])
    head.calibrate(features)
    scaled = features * head.scale
    assert torch.allclose(scaled[:, 1], 10.0 * scaled[:, 0])


def test_features_of_zeros_do_not_divide_by_zero():
    head = LinearHead(4, 2)
    head.calibrate(torch.zeros(3, 4))
    assert torch.isfinite(head(torch.zeros(3, 4))).all()


def test_the_scale_is_state_and_is_not_trained():
    head = LinearHead(4, 2)
    head.calibrate(torch.full((3, 4), 5.0))
    assert set(dict(head.named_parameters())) == {"linear.weight", "linear.bias"}
    other = LinearHead(4, 2)
    other.load_state_dict(head.state_dict())
    assert float(other.scale) == pytest.approx(0.2)
