"""Which arms a comparison has, on which backbones, from which weights."""

from dataclasses import replace
from pathlib import Path

import pytest

from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods import METHODS
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.stages.arms import AUTO, CompareConfig, Recipes, resolve_arms

MOBILE = BackboneConfig(name="mobilenetv2_100", arguments=("pad_type=same",))
VIT = METHODS["mae"].backbone.name


def found(*arms, **settings):
    """(name, init, name of the backbone) of each arm."""
    return [(arm.name, arm.init, arm.backbone.name) for arm in resolve_arms(CompareConfig(arms=arms, **settings))]


def test_plain_arms_have_scratch_beside_every_backbone():
    assert found("simclr", "mae") == [
        ("scratch", "scratch", "resnet18"),
        ("scratch", "scratch", VIT),
        ("simclr", "scratch", "resnet18"),
        ("mae", "scratch", VIT),
    ]
    assert found("scratch") == [("scratch", "scratch", "resnet18")]


def test_imagenet_stands_beside_one_backbone_of_plain_arms():
    assert found("imagenet", "simclr", "mae") == [
        ("scratch", "scratch", "resnet18"),
        ("scratch", "scratch", VIT),
        ("imagenet", "imagenet", "resnet18"),
        ("simclr", "scratch", "resnet18"),
        ("mae", "scratch", VIT),
    ]


def test_what_goes_on_from_imagenet_brings_both_baselines():
    expected = [
        ("scratch", "scratch", "resnet18"),
        ("imagenet", "imagenet", "resnet18"),
        ("imagenet+simclr", "imagenet", "resnet18"),
    ]
    assert found("imagenet+simclr") == expected
    assert found("scratch", "imagenet", "imagenet+simclr") == expected
    assert found("imagenet+simclr", imagenet_weights=Path("weights.safetensors")) == expected


def test_imagenet_stands_beside_every_backbone_that_goes_on_from_it():
    assert found("simclr", "imagenet+moco", "imagenet+mae") == [
        ("scratch", "scratch", "resnet18"),
        ("scratch", "scratch", VIT),
        ("imagenet", "imagenet", "resnet18"),
        ("imagenet", "imagenet", VIT),
        ("simclr", "scratch", "resnet18"),
        ("imagenet+moco", "imagenet", "resnet18"),
        ("imagenet+mae", "imagenet", VIT),
    ]


def test_imagenets_backbone_is_that_of_what_goes_on_from_it():
    recipes = replace(Recipes(), simclr=replace(Recipes().simclr, backbone=BackboneConfig(name="resnet34")))
    arms = found("imagenet", "imagenet+simclr", recipes=recipes)
    assert {backbone for _, _, backbone in arms} == {"resnet34"}
    # One that --backbone names stays beside the plain arms.
    arms = found("imagenet", "moco", "imagenet+simclr", recipes=recipes, backbone=BackboneConfig(name="resnet26"))
    assert [arm for arm in arms if arm[0] == "imagenet"] == [
        ("imagenet", "imagenet", "resnet26"),
        ("imagenet", "imagenet", "resnet34"),
    ]


def test_a_backbone_of_imagenet_is_taken_where_the_method_can_use_it():
    arms = resolve_arms(CompareConfig(arms=("simclr", "imagenet+simclr", "imagenet+mae"), imagenet=MOBILE))
    backbones = {(arm.name, arm.backbone) for arm in arms if arm.name not in ("scratch", "imagenet")}
    assert backbones == {
        ("simclr", BackboneConfig()),
        ("imagenet+simclr", MOBILE),
        ("imagenet+mae", METHODS["mae"].backbone),
    }


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_those_of_the_method(name):
    own = replace(getattr(Recipes(), name), epochs=7, evaluate_every=3)
    config = CompareConfig(arms=(name, f"imagenet+{name}"), batch_size=32, recipes=replace(Recipes(), **{name: own}))
    recipes = {arm.name: arm.recipe for arm in resolve_arms(config) if arm.recipe is not None}
    assert set(recipes) == {name, f"imagenet+{name}"}
    assert recipes[name] == recipes[f"imagenet+{name}"]
    assert (recipes[name].epochs, recipes[name].batch_size, recipes[name].evaluate_every) == (7, 32, 3)


def test_only_the_name_decides_where_an_arm_starts():
    arms = resolve_arms(CompareConfig(arms=("imagenet", *METHODS, *(f"imagenet+{name}" for name in METHODS))))
    assert len(arms) > 2 * len(METHODS)
    for arm in arms:
        assert arm.init == ("imagenet" if arm.name.startswith("imagenet") else "scratch")
        assert (arm.recipe is None) == (arm.name in ("scratch", "imagenet"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagenet+simclrr", "Did you mean imagenet.simclr"),
        ("imagnet+simclr", "Did you mean imagenet.simclr"),
        ("imagenet+", "there are scratch, imagenet, .* and imagenet.METHOD"),
        ("imagenet+scratch", "and imagenet.METHOD"),
        ("simclr+mae", "and imagenet.METHOD"),
        ("scratch+simclr", "begins from scratch unless told otherwise. Write simclr"),
    ],
)
def test_unknown_halves(name, message):
    with pytest.raises(InputError, match=message):
        found(name)


def test_weights_that_nothing_starts_from():
    with pytest.raises(InputError, match="--imagenet-weights would be ignored"):
        found("simclr", imagenet_weights=Path("weights.safetensors"))


def test_auto_is_no_backbone():
    assert AUTO not in {backbone for _, _, backbone in found("imagenet", *METHODS, "imagenet+simclr")}
