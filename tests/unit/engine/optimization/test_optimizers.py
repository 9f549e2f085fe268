import copy

import pytest
import torch
from torch import nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig, make_optimizer, parameter_groups
from ssl_transfer.models.backbones import freeze


def groups_of(backbone, **settings):
    return parameter_groups(backbone, learning_rate=1.0, weight_decay=0.1, undecayed=backbone.undecayed(), **settings)


@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
def test_every_trainable_parameter_is_in_exactly_one_group(make_backbone, kind):
    module = nn.ModuleDict({"backbone": make_backbone(kind), "head": nn.Linear(16, 3), "frozen": nn.Linear(2, 2)})
    freeze(module["frozen"])
    layers = {f"backbone.{name}": depth for name, depth in module["backbone"].layers().items()}
    groups = parameter_groups(module, learning_rate=1.0, weight_decay=0.1, layers=layers, layer_decay=0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = [id(parameter) for parameter in module.parameters() if parameter.requires_grad]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(trainable)
    assert len(trainable) < len(list(module.parameters()))


def undecayed_names(backbone) -> set[str]:
    return {name for group in groups_of(backbone) if group["weight_decay"] == 0.0 for name in group["names"]}


def test_golden_undecayed_names_of_a_convolutional_network(make_backbone):
    blocks = [f"model.layer{number}.0" for number in range(1, 5)]
    norms = ["model.bn1", *(f"{b}.{n}" for b in blocks for n in ("bn1", "bn2", "downsample.2"))]
    assert undecayed_names(make_backbone()) == {f"{norm}.{part}" for norm in norms for part in ("weight", "bias")}


def test_golden_undecayed_names_of_a_vision_transformer(make_backbone):
    golden = {"model.cls_token", "model.pos_embed", "model.patch_embed.proj.bias", "model.norm.weight"}
    golden |= {"model.norm.bias"}
    for block in ("model.blocks.0", "model.blocks.1"):
        golden |= {f"{block}.{norm}.{part}" for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        golden |= {f"{block}.{layer}.bias" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert undecayed_names(make_backbone("transformer")) == golden


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_layer_decay_reaches_the_optimizer(make_backbone, name):
    module = nn.ModuleDict({"backbone": make_backbone(), "head": nn.Linear(16, 3)})
    layers = {f"backbone.{key}": depth for key, depth in module["backbone"].layers().items()}
    groups = parameter_groups(module, learning_rate=0.1, weight_decay=0.2, layers=layers, layer_decay=0.5)
    optimizer = make_optimizer(OptimizerConfig(name=name, learning_rate=7.0, weight_decay=7.0), groups)
    names = {id(parameter): key for key, parameter in module.named_parameters()}
    seen = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            key = names[id(parameter)]
            # The head lies deepest, one above the four stages and the stem below them.
            depth = 5 if key.startswith("head") else 0 if "layer" not in key else int(key.split("layer")[1][0])
            assert group["lr"] == pytest.approx(0.1 * 0.5 ** (5 - depth)), key
            assert group["weight_decay"] == (0.2 if parameter.ndim > 1 else 0.0), key
            seen += 1
    assert seen == len(names)


def test_first_step_moves_each_group_at_its_own_rate():
    module = nn.ModuleDict({"below": nn.Linear(2, 2, bias=False), "above": nn.Linear(2, 2, bias=False)})
    groups = parameter_groups(module, learning_rate=0.1, weight_decay=0.0, layers={"below.weight": 0}, layer_decay=0.25)
    optimizer = make_optimizer(OptimizerConfig(), groups)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    sum(parameter.sum() for parameter in module.parameters()).backward()
    optimizer.step()
    # AdamW's first step is the learning rate itself, whatever the gradient.
    moved = {name: (before[name] - parameter).abs().max().item() for name, parameter in module.named_parameters()}
    assert moved == pytest.approx({"below.weight": 0.025, "above.weight": 0.1}, rel=1e-4)


def test_second_momentum_is_the_optimizers():
    groups = parameter_groups(nn.Linear(2, 2), learning_rate=0.1, weight_decay=0.0)
    assert make_optimizer(OptimizerConfig(second_momentum=0.95), groups).defaults["betas"] == (0.9, 0.95)


def test_momentum_is_the_optimizers():
    groups = parameter_groups(nn.Linear(2, 2), learning_rate=0.1, weight_decay=0.0)
    assert make_optimizer(OptimizerConfig(momentum=0.8), groups).defaults["betas"] == (0.8, 0.999)
    for name in ("sgd", "lars"):
        made = make_optimizer(OptimizerConfig(name=name, momentum=0.8), groups)
        assert [group["momentum"] for group in made.param_groups] == [0.8, 0.8]


def lars_after_steps(backbone, *, weight_decay: float, gradients) -> dict[str, torch.Tensor]:
    """The weights by name after one step of rate 0.5 for each dictionary of gradients."""
    groups = parameter_groups(backbone, learning_rate=0.5, weight_decay=weight_decay, undecayed=backbone.undecayed())
    optimizer = make_optimizer(OptimizerConfig(name="lars", learning_rate=7.0), groups)
    parameters = dict(backbone.named_parameters())
    for one in gradients:
        for name, parameter in parameters.items():
            parameter.grad = one[name].clone()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in parameters.items()}


def random_gradients(backbone, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(one.shape, generator=generator) for name, one in backbone.named_parameters()}


@pytest.mark.parametrize("weight_decay", [0.0, 0.25])
@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
def test_steps_of_lars(make_backbone, kind, weight_decay):
    """Two steps against the equation in float64: adapted matrices at any decay, plain steps for the golden names."""
    backbone = make_backbone(kind)
    # No weight is zero, so that nothing is adapted or not adapted by chance.
    with torch.no_grad():
        for number, parameter in enumerate(backbone.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)), alpha=0.1)
    start = {name: one.detach().double().clone() for name, one in backbone.named_parameters()}
    gradients = [random_gradients(backbone, seed) for seed in (0, 1)]
    excluded = undecayed_names(backbone)
    assert 20 < len(excluded) < len(start)
    moved = lars_after_steps(backbone, weight_decay=weight_decay, gradients=gradients)
    for name, weight in start.items():
        running = torch.zeros_like(weight)
        for one in gradients:
            gradient = one[name].double()
            if name not in excluded:
                size, length = weight.norm(), gradient.norm()
                gradient = (gradient + weight_decay * weight) * 0.001 * size / (length + weight_decay * size)
            running = 0.9 * running + gradient
            weight = weight - 0.5 * running
        torch.testing.assert_close(moved[name].double(), weight, rtol=1e-5, atol=1e-6)


def test_first_step_of_lars_is_the_weights_share():
    """Without decay too: a matrix moves by rate * 0.001 of its norm, a bias by rate * gradient."""
    module = nn.Linear(3, 3)
    before = {name: one.detach().clone() for name, one in module.named_parameters()}
    groups = parameter_groups(module, learning_rate=2.0, weight_decay=0.0)
    optimizer = make_optimizer(OptimizerConfig(name="lars"), groups)
    assert [group["always_adapt"] for group in optimizer.param_groups] == [True, False]
    module.weight.grad, module.bias.grad = torch.full((3, 3), 123.0), torch.full((3,), 123.0)
    optimizer.step()
    moved = float((module.weight.detach() - before["weight"]).norm())
    assert moved == pytest.approx(0.002 * float(before["weight"].norm()), rel=1e-4)
    assert torch.allclose(module.bias, before["bias"] - 246.0)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_an_optimizer_goes_on_from_its_state(make_backbone, name):
    """Three steps, and one with state, loading and two: the same to the bit."""

    def optimizer_of(backbone):
        groups = parameter_groups(backbone, learning_rate=0.1, weight_decay=0.01, undecayed=backbone.undecayed())
        return make_optimizer(OptimizerConfig(name=name), groups)

    def step(backbone, optimizer, seed):
        for key, gradient in random_gradients(backbone, seed).items():
            backbone.get_parameter(key).grad = gradient
        optimizer.step()

    whole, resumed, forgetful = (make_backbone(seed=seed) for seed in (0, 1, 1))
    optimizer = optimizer_of(whole)
    step(whole, optimizer, 0)
    held = copy.deepcopy({"weights": whole.state_dict(), "optimizer": optimizer.state_dict()})
    step(whole, optimizer, 1)
    step(whole, optimizer, 2)
    for backbone in (resumed, forgetful):
        backbone.load_state_dict(held["weights"])
        again = optimizer_of(backbone)
        if backbone is resumed:
            again.load_state_dict(held["optimizer"])
        step(backbone, again, 1)
        step(backbone, again, 2)
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in resumed.state_dict().items())
    assert not all(torch.equal(value, whole.state_dict()[key]) for key, value in forgetful.state_dict().items())


def test_nothing_to_train_is_an_error():
    module = nn.Linear(2, 2)
    freeze(module)
    with pytest.raises(InputError, match="frozen"):
        parameter_groups(module, learning_rate=0.1, weight_decay=0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate 0.0"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
        ({"warmup_steps": -1}, "warmup_steps -1"),
        ({"clip_norm": -1.0}, "clip_norm -1.0"),
        ({"second_momentum": 1.0}, "second_momentum 1.0"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"name": "sgd", "second_momentum": 0.9}, "ignored by sgd"),
        ({"name": "lars", "second_momentum": 0.9}, "ignored by lars"),
        ({"accumulate": 0}, "accumulate 0"),
        ({"ema_decay": 1.0}, "ema_decay 1.0"),
        ({"schedule": "plateau", "plateau_factor": 1.0}, "plateau_factor 1.0"),
        ({"schedule": "plateau", "plateau_patience": -1}, "plateau_patience -1"),
        ({"plateau_factor": 0.5}, "ignored by the schedule cosine"),
        ({"schedule": "constant", "plateau_patience": 3}, "ignored by the schedule constant"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        OptimizerConfig(**settings)


def test_weight_decay_shrinks_only_the_decayed():
    module = nn.Linear(3, 3)
    nn.init.ones_(module.weight)
    nn.init.ones_(module.bias)
    groups = parameter_groups(module, learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(OptimizerConfig(), groups)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(module.weight, torch.full((3, 3), 1.0 - 0.1 * 0.5))
    assert torch.equal(module.bias, torch.ones(3))
