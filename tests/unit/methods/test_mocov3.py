import math

import pytest
import torch
from torch import nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods.mocov3 import MoCoV3, MoCoV3Config


def build(backbone, **settings) -> MoCoV3:
    return MoCoV3(backbone, MoCoV3Config(**{"hidden_width": 16, "output_width": 8, **settings}))


def naive_contrast(queries, keys, temperature: float) -> float:
    """Equation 1 of the paper times 2 t, as in its algorithm 1, term by term in float64."""
    queries, keys = (rows.double() / rows.double().norm(dim=1, keepdim=True) for rows in (queries, keys))
    total = 0.0
    for number, query in enumerate(queries):
        weights = [math.exp(float(query @ key) / temperature) for key in keys]
        total -= math.log(weights[number] / sum(weights))
    return 2.0 * temperature * total / len(queries)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_contrast_against_a_naive_loop(make_backbone, temperature):
    method = build(make_backbone(), temperature=temperature)
    queries, keys = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    expected = naive_contrast(queries, keys, temperature)
    assert float(method.contrast(queries, keys)) == pytest.approx(expected, rel=1e-5)


def test_queries_that_are_their_keys_have_no_loss(make_backbone):
    method = build(make_backbone(), temperature=0.01)
    queries = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    assert float(method.contrast(queries, queries)) < 1e-6
    # Two images that look alike cannot be told apart.
    assert float(method.contrast(queries[[0, 0]], queries[[0, 0]])) == pytest.approx(0.02 * math.log(2), rel=1e-4)


@pytest.mark.parametrize("autocast", [False, True])
def test_each_view_meets_the_keys_of_the_other(make_backbone, make_batch, autocast):
    method, queries, keys = build(make_backbone("transformer")), [], []
    method.predictor.register_forward_hook(lambda _module, _inputs, output: queries.append(output.detach()))
    method.key_projector.register_forward_hook(lambda _module, _inputs, output: keys.append(output))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = method(make_batch(8)).loss
    assert loss.dtype == torch.float32
    assert not any(key.requires_grad for key in keys)
    expected = naive_contrast(queries[0], keys[1], 0.2) + naive_contrast(queries[1], keys[0], 0.2)
    # Normalised in the projector's own precision, then in float32: rounding alone.
    assert float(loss.detach()) == pytest.approx(expected, rel=2e-5)


def test_nothing_flows_into_the_key_encoder(make_backbone, make_batch):
    method = build(make_backbone())
    method(make_batch(8)).loss.backward()
    slow = [*method.key_backbone.parameters(), *method.key_projector.parameters()]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in slow)
    quick = [*method.projector.parameters(), *method.predictor.parameters()]
    assert all(float(parameter.grad.abs().max()) > 0.0 for parameter in quick)


def test_keys_keep_gradients_out_even_where_they_have_one(make_backbone):
    method = build(make_backbone())
    queries, keys = (x.requires_grad_() for x in torch.randn(2, 6, 8).unbind())
    method.contrast(queries, keys).backward()
    assert queries.grad is not None
    assert keys.grad is None


@pytest.mark.parametrize(("kind", "depth"), [("transformer", 3), ("convolutional", 2)])
def test_heads_are_the_authors(make_backbone, kind, depth):
    method = build(make_backbone(kind))
    for head, layers in ((method.projector, depth), (method.predictor, 2)):
        norms = [module.affine for module in head.modules() if isinstance(module, nn.BatchNorm1d)]
        last = [] if head is method.predictor and kind == "convolutional" else [False]
        assert norms == [True] * (layers - 1) + last
        assert all(layer.bias is None for layer in head.modules() if isinstance(layer, nn.Linear))


def test_frozen_patches_stay_and_the_rest_learns(make_backbone, make_batch):
    method = build(make_backbone("transformer"), freeze_patches=True)
    method(make_batch(8)).loss.backward()
    without = {name for name, parameter in method.backbone.named_parameters() if parameter.grad is None}
    assert without == {"model.patch_embed.proj.weight", "model.patch_embed.proj.bias"}
    with pytest.raises(InputError, match="freeze_patches: resnet10t has no patch projection"):
        build(make_backbone(), freeze_patches=True)


def test_the_key_encoder_follows(make_backbone):
    method = build(make_backbone(), momentum=0.9)
    with torch.no_grad():
        for parameter in [*method.backbone.parameters(), *method.projector.parameters()]:
            parameter.add_(1.0)
    slow = [*method.key_backbone.parameters(), *method.key_projector.parameters()]
    before = [parameter.clone() for parameter in slow]
    method.after_step(0.0)
    assert all(torch.allclose(new, old + 0.1, atol=1e-6) for new, old in zip(slow, before, strict=True))


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"momentum": -1.0}])
def test_impossible_settings_are_refused(make_backbone, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        build(make_backbone(), **settings)


def test_bfloat16_stays_close_to_float32(make_backbone, make_batch):
    losses = []
    for on in (False, True):
        method = build(make_backbone())
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
            losses.append(float(method(make_batch(8)).loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
