import pytest
import torch

from ssl_transfer.methods.simsiam import SimSiam, SimSiamConfig


def build(backbone, **settings) -> SimSiam:
    small = {"hidden_width": 16, "output_width": 8, "predictor_width": 4}
    return SimSiam(backbone, SimSiamConfig(**{**small, **settings}))


def naive_loss(predictions, projections) -> float:
    """Equations 1 and 2 of the paper in float64, one higher."""

    def distance(ps, zs) -> float:
        cosines = [float(p @ z / (p.norm() * z.norm())) for p, z in zip(ps.double(), zs.double(), strict=True)]
        return -sum(cosines) / len(cosines)

    return 1.0 + distance(predictions[0], projections[1]) / 2 + distance(predictions[1], projections[0]) / 2


def test_loss_against_the_paper(make_backbone):
    method = build(make_backbone())
    first, second, one, other = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    expected = naive_loss((first, second), (one, other))
    assert float(method.similarity((first, second), (one, other))) == pytest.approx(expected, rel=1e-6)
    # The prediction from one view is held against the projection of the other.
    assert float(method.similarity((first, second), (second, first))) == pytest.approx(0.0, abs=1e-6)


def test_projections_get_no_gradient(make_backbone):
    method = build(make_backbone())
    first, second, one, other = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0)).unbind()
    leaves = [tensor.clone().requires_grad_() for tensor in (first, second, one, other)]
    method.similarity((leaves[0], leaves[1]), (leaves[2], leaves[3])).backward()
    assert [leaf.grad is not None for leaf in leaves] == [True, True, False, False]


def test_the_gradient_is_that_of_constant_projections(make_backbone, make_batch):
    """The same encoder stands on both sides; what it projects must act as numbers that do not depend on it."""
    method, seen = build(make_backbone()), []
    handle = method.projector.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    method(make_batch(8)).loss.backward()
    handle.remove()
    mine = [parameter.grad.clone() for parameter in method.projector.parameters()]
    twin = build(make_backbone())
    twin.load_state_dict(method.state_dict())
    again = []
    handle = twin.projector.register_forward_hook(lambda _module, _inputs, output: again.append(output))
    twin(make_batch(8))
    handle.remove()
    constants = tuple(output.detach() for output in seen)
    predictions = tuple(twin.predictor(output) for output in again)
    cosine = torch.nn.functional.cosine_similarity
    loss = -(cosine(predictions[0], constants[1]).mean() + cosine(predictions[1], constants[0]).mean()) / 2
    loss.backward()
    for gradient, parameter in zip(mine, twin.projector.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_method_takes_the_loss_of_its_views_in_float32(make_backbone, make_batch, autocast):
    method, predictions, projections = build(make_backbone()), [], []
    method.predictor.register_forward_hook(lambda _module, _inputs, output: predictions.append(output.detach()))
    method.projector.register_forward_hook(lambda _module, _inputs, output: projections.append(output.detach()))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = method(make_batch(8)).loss
    assert loss.dtype == torch.float32
    assert predictions[0].dtype == (torch.bfloat16 if autocast else torch.float32)
    assert float(loss.detach()) == pytest.approx(naive_loss(predictions, projections), rel=2e-6)


def test_heads_are_the_papers(make_backbone):
    """Section 3: BatchNorm behind every layer of the projector, the last without weights; a bottleneck, bare at the
    end."""
    method = build(make_backbone())
    norms = [module for module in method.projector.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert [norm.affine for norm in norms] == [True, True, False]
    layers = [module for module in method.predictor.modules() if isinstance(module, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(8, 4), (4, 8)]
    assert isinstance(list(method.predictor.modules())[-1], torch.nn.Linear)
