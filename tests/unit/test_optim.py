import pytest
import torch
from torch import nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optim import OptimizerConfig, make_optimizer, parameter_groups
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


@pytest.mark.parametrize("name", ["adamw", "sgd"])
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
        ({"name": "sgd", "second_momentum": 0.9}, "ignored by sgd"),
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
