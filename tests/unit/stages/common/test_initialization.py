"""Initialise a run: weights at another image size, the backbone of a run, random numbers drawn later."""

import dataclasses

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods import METHODS
from ssl_transfer.models import pretrained
from ssl_transfer.models.backbones import BackboneConfig, first_blocks
from ssl_transfer.stages.common.initialization import (
    AUTO,
    Initial,
    image_size_of,
    initial_backbone,
    network_of_run,
    open_initial_run,
)
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.pretrain import config as pretraining

TINY = {"stem_type": "", "stem_width": 8, "channels": (8, 8, 16, 16), "zero_init_last": False}
ARGUMENTS = ("stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False")


@pytest.fixture
def weights(tmp_path):
    """A file with a tiny classifier under timm's names."""
    torch.manual_seed(17)
    save_file(timm.create_model("resnet10t", **TINY).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def exported(make_backbone, tmp_path):
    """`exported("transformer")`: a backbone for 16 px, and the folder that it was exported to."""

    def call(kind="convolutional"):
        backbone = make_backbone(kind, seed=5)
        pretrained.export(backbone, tmp_path / "run" / "backbone", {"method": "simclr"})
        return backbone, tmp_path / "run"

    return call


def test_a_convolutional_network_takes_another_size_as_it_is(exported):
    backbone, path = exported()
    run = Run(path)
    larger, provenance = run.load_backbone(image_size=24), run.provenance
    assert larger.spec == dataclasses.replace(backbone.spec, image_size=24)
    assert provenance == {"method": "simclr"}
    state = backbone.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in larger.model.state_dict().items())


def test_a_transformers_position_embedding_is_resampled(make_backbone, tmp_path):
    backbone = make_backbone("transformer", size=64)
    # A ramp over the columns: at another size it is still one, from the first column's value to the last one's.
    rows, columns = backbone.model.patch_embed.grid_size
    ramp = torch.linspace(-1.0, 1.0, columns).view(1, 1, columns, 1).expand(1, rows, -1, backbone.num_features)
    with torch.no_grad():
        backbone.model.pos_embed[:, 1:] = ramp.reshape(1, rows * columns, -1)
    pretrained.export(backbone, tmp_path, {})
    same = Run(tmp_path).load_backbone(image_size=64)
    assert torch.equal(same.model.pos_embed, backbone.model.pos_embed)
    other = Run(tmp_path).load_backbone(image_size=96)
    assert torch.equal(other.model.blocks[0].mlp.fc1.weight, backbone.model.blocks[0].mlp.fc1.weight)
    assert torch.equal(other.model.pos_embed[:, 0], backbone.model.pos_embed[:, 0])
    grid = other.model.pos_embed.detach()[0, 1:, 0].view(other.model.patch_embed.grid_size)
    assert float((grid - grid[:1]).abs().max()) < 1e-5
    assert float(grid[0, 0]) == pytest.approx(-1.0, abs=0.1)
    assert float(grid[0, -1]) == pytest.approx(1.0, abs=0.1)
    assert torch.isfinite(other.eval()(torch.rand(2, 3, 96, 96))).all()


def test_transfer_keeps_the_size_of_its_run_and_pretraining_may_change_it(exported):
    _, path = exported()
    run = Run(path)
    assert image_size_of(Initial(init=str(path)), run) == 16
    with pytest.raises(InputError, match="--image-size 24"):
        image_size_of(Initial(init=str(path), image_size=24), run)
    assert image_size_of(pretrain_config(init=str(path)), run) == 16
    assert image_size_of(pretrain_config(init=str(path), image_size=24), run) == 24


def pretrain_config(name="simclr", backbone=AUTO, **settings):
    recipe = pretraining.default_recipe(name)
    given = backbone if isinstance(backbone, BackboneConfig) else BackboneConfig(name=backbone)
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    return pretraining.PretrainConfig(**{**fields, **settings, "backbone": given})


@pytest.mark.parametrize("name", METHODS)
def test_auto_is_what_the_method_suggests(name):
    assert pretraining.resolved(pretrain_config(name), None).backbone == METHODS[name].backbone
    small = BackboneConfig(name=AUTO, stem="small")
    assert pretraining.resolved(pretrain_config(name, small), None).backbone == dataclasses.replace(
        small, name=METHODS[name].backbone.name
    )


def test_auto_is_what_the_run_holds(exported):
    backbone, path = exported()
    config = pretraining.resolved(pretrain_config(init=str(path)), Run(path))
    assert (config.backbone.name, config.backbone.stem) == (backbone.spec.name, backbone.spec.stem)
    assert config.backbone.arguments == backbone.spec.arguments
    assert config.image_size == 16


def test_another_backbone_than_the_runs_is_refused_by_name(exported):
    backbone, path = exported()
    same = BackboneConfig(name=backbone.spec.name, arguments=backbone.spec.arguments)
    assert network_of_run(Run(path), same) == dataclasses.replace(same, stem=backbone.spec.stem)
    others = (
        dataclasses.replace(same, name="resnet18"),
        BackboneConfig(name=same.name),
        dataclasses.replace(same, stem="small" if backbone.spec.stem == "standard" else "standard"),
    )
    for other in others:
        with pytest.raises(InputError, match=rf"--backbone.name {other.name} .* holds resnet10t .*Leave --backbone"):
            network_of_run(Run(path), other)


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_built_around_the_first_weights(name, make_dataset, weights, exported):
    """Whatever a method copies at its construction is a copy of ImageNet's weights, or of the run's."""
    is_vit = METHODS[name].backbones == "vit"
    start = (
        Initial(init=str(exported("transformer")[1]))
        if is_vit
        else Initial(
            init="imagenet",
            imagenet_weights=weights,
            image_size=64,
            backbone=BackboneConfig(name="resnet10t", arguments=ARGUMENTS),
        )
    )
    backbone, _ = initial_backbone(start, make_dataset(), open_initial_run(start))
    first = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    if not is_vit:
        assert torch.equal(first["conv1.weight"], timm.models.load_state_dict(str(weights))["conv1.weight"])
    module = pretraining.prepare(pretraining.default_recipe(name), backbone)
    encoders = [held for held in module.modules() if type(held) is type(backbone)]
    assert len(encoders) >= (2 if name == "moco" else 1)
    for encoder in encoders:
        state = encoder.model.state_dict()
        assert all(torch.equal(state[key], value) for key, value in first.items())


def test_what_is_drawn_after_the_weights_is_a_function_of_the_seed(make_dataset, weights, exported):
    imagenet = {
        "init": "imagenet",
        "imagenet_weights": weights,
        "backbone": BackboneConfig(name="resnet10t", arguments=ARGUMENTS),
    }
    run = {"init": str(exported()[1])}
    scratch = {"backbone": imagenet["backbone"], "image_size": 16}

    def drawn(settings, seed):
        torch.rand(seed + 3)
        start = Initial(**settings, seed=seed)
        initial_backbone(start, make_dataset(), open_initial_run(start))
        return nn.Linear(4, 4).weight

    for settings in (imagenet, run, scratch):
        assert torch.equal(drawn(settings, 1), drawn(settings, 1))
        assert not torch.equal(drawn(settings, 1), drawn(settings, 2))


def test_what_would_be_ignored_is_refused(make_dataset, weights, exported):
    _, path = exported()
    for init in ("scratch", str(path)):
        start = Initial(init=init, imagenet_weights=weights)
        run = open_initial_run(start)
        with pytest.raises(InputError, match=f"--imagenet-weights would be ignored with --init {init}"):
            initial_backbone(start, make_dataset(), run)


def test_a_backbone_cut_short_is_not_pretrained(make_backbone):
    cut = first_blocks(make_backbone(), 2)
    with pytest.raises(InputError, match="keeps only its first blocks"):
        pretraining.prepare(pretraining.default_recipe("simclr"), cut)
