"""Resolve the arms of a comparison, their backbones and their weights."""

from dataclasses import replace
from pathlib import Path

import pytest

from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods import METHODS
from ssl_transfer.models import pretrained
from ssl_transfer.models.backbones import BackboneConfig, first_blocks
from ssl_transfer.stages.compare.arms import resolve_arms
from ssl_transfer.stages.compare.config import AUTO, CompareConfig, Recipes

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


def test_every_method_runs_on_each_backbone_that_it_can_use():
    names = ("resnet18", "mobilenetv3_small_100", VIT)
    assert found("simclr", "mae", backbones=names) == [
        *(("scratch", "scratch", name) for name in names),
        *(("simclr", "scratch", name) for name in names),
        ("mae", "scratch", VIT),
    ]
    assert found("scratch", backbones=names) == [("scratch", "scratch", name) for name in names]
    # One that can use none of them has its own, with a scratch beside it.
    assert found("simclr", "mae", backbones=("resnet18",))[:2] == [
        ("scratch", "scratch", "resnet18"),
        ("scratch", "scratch", VIT),
    ]


def test_imagenet_stands_beside_every_one_of_several_backbones():
    arms = found("imagenet", "simclr", "imagenet+mae", "mae", backbones=("resnet18", "resnet26"))
    for baseline in ("scratch", "imagenet"):
        assert [arm for arm in arms if arm[0] == baseline] == [
            (baseline, baseline, name) for name in ("resnet18", "resnet26", VIT)
        ]
    # And beside what goes on from it, where it was not asked for.
    arms = found("simclr", "imagenet+simclr", backbones=("resnet18", "resnet26"))
    assert [name for arm, _, name in arms if arm == "imagenet"] == ["resnet18", "resnet26"]


def test_own_backbone_wins_over_several():
    recipes = replace(Recipes(), moco=replace(Recipes().moco, backbone=BackboneConfig(name="resnet34")))
    arms = found("simclr", "moco", recipes=recipes, backbones=("resnet18", "resnet26"))
    assert [name for arm, _, name in arms if arm == "moco"] == ["resnet34"]
    assert [name for arm, _, name in arms if arm == "scratch"] == ["resnet18", "resnet26", "resnet34"]


def test_settings_of_the_backbone_go_to_all_of_several():
    config = CompareConfig(arms=("simclr",), backbones=("resnet18", "resnet26"), backbone=replace(MOBILE, name=AUTO))
    assert {arm.backbone.arguments for arm in resolve_arms(config)} == {MOBILE.arguments}


@pytest.fixture
def export(make_backbone, tmp_path):
    """`export("runs/one", seed=3)`: a run's folder with a backbone for images of 16 px."""

    def call(name, kind="convolutional", seed=0, cut=None):
        backbone = make_backbone(kind, seed=seed)
        backbone = backbone if cut is None else first_blocks(backbone, cut)
        pretrained.export(backbone, tmp_path / name / "backbone", {"method": "simclr"})
        return str(tmp_path / name)

    return call


def test_a_run_has_scratch_on_its_backbone(export, convolutional):
    path = export("runs/mine")
    arms = resolve_arms(CompareConfig(arms=(path,), image_size=16))
    assert [(arm.name, arm.init, arm.backbone) for arm in arms] == [
        ("scratch", "scratch", convolutional),
        ("run:mine", path, convolutional),
    ]
    assert arms[1].start == {"init": path}
    assert arms[1].place.startswith("run-mine-resnet10t-")
    assert set(arms[1].place) & set(':/\\" ') == set()


def test_a_run_shares_scratch_with_a_method_on_the_same_backbone(export):
    """Also where the stem of the one is auto, which comes to the same at this size."""
    transformer = BackboneConfig(name=VIT, arguments=("embed_dim=16", "depth=2", "num_heads=2"))
    config = CompareConfig(
        arms=("simclr", export("mine", "transformer")), image_size=16, backbone=replace(transformer, stem="auto")
    )
    arms = resolve_arms(config)
    assert [arm.name for arm in arms] == ["scratch", "simclr", "run:mine"]
    assert {arm.backbone for arm in arms} == {config.backbone}
    assert {arm.label for arm in arms} == {VIT}


def test_imagenet_stands_beside_a_run(export, convolutional):
    path = export("mine")
    asked = CompareConfig(arms=("imagenet", path), image_size=16)
    assert [arm.backbone for arm in resolve_arms(asked) if arm.name == "imagenet"] == [convolutional]
    beside = [arm.backbone for arm in resolve_arms(replace(asked, arms=("imagenet", "simclr", path)))]
    assert beside[2:4] == [BackboneConfig(), convolutional]


def test_runs_are_called_by_the_ends_of_their_paths_that_differ(export):
    paths = [export(name, seed=seed) for seed, name in enumerate(("a/seed0", "b/seed0", "b/other"))]
    arms = resolve_arms(CompareConfig(arms=(paths[0], f"{paths[1]}/backbone", paths[2]), image_size=16))
    assert [arm.name for arm in arms[1:]] == ["run:a/seed0", "run:b/seed0", "run:other"]
    # Folders go by the weights, so that they stay where they are when another arm comes.
    places = [arm.place for arm in arms[1:]]
    assert len(set(places)) == 3
    (_, alone) = resolve_arms(CompareConfig(arms=(paths[0],), image_size=16))
    assert (alone.name, alone.place) == ("run:seed0", places[0])


def test_weights_of_timm_have_scratch_on_their_architecture():
    arms = resolve_arms(CompareConfig(arms=("imagenet", "timm:resnet18.a1_in1k", "simclr"), image_size=64))
    assert [(arm.name, arm.init, arm.backbone.name) for arm in arms] == [
        ("scratch", "scratch", "resnet18"),
        ("imagenet", "imagenet", "resnet18"),
        ("timm:resnet18.a1_in1k", "timm:resnet18.a1_in1k", "resnet18"),
        ("simclr", "scratch", "resnet18"),
    ]
    assert len({arm.backbone for arm in arms}) == 1
    assert arms[2].place.startswith("timm-resnet18.a1_in1k-resnet18-")
    # Of small images the method has another stem, which the weights would not fit.
    small = resolve_arms(CompareConfig(arms=("timm:resnet18.a1_in1k", "simclr"), image_size=32))
    assert [(arm.name, arm.backbone.stem) for arm in small] == [
        ("scratch", "standard"),
        ("scratch", "auto"),
        ("timm:resnet18.a1_in1k", "standard"),
        ("simclr", "auto"),
    ]
    assert [arm.label for arm in small[:2]] == ["resnet18 standard", "resnet18 auto"]


def test_a_file_of_weights_goes_to_imagenet_and_without_it_to_timm():
    file = Path("weights.safetensors")
    both = resolve_arms(CompareConfig(arms=("imagenet", "timm:resnet18.a1_in1k"), imagenet_weights=file))
    assert {arm.name: arm.weights for arm in both} == {
        "scratch": None,
        "imagenet": file,
        "timm:resnet18.a1_in1k": None,
    }
    alone = resolve_arms(CompareConfig(arms=("timm:resnet18.a1_in1k",), imagenet_weights=file))
    assert {arm.name: arm.weights for arm in alone} == {"scratch": None, "timm:resnet18.a1_in1k": file}
    with pytest.raises(InputError, match=r"one file, and timm:resnet18, timm:resnet34"):
        found("timm:resnet18", "timm:resnet34", imagenet_weights=file)


def test_runs_that_cannot_be_compared(export):
    with pytest.raises(InputError, match=r"takes images of 16 px.*here 64. Give --image-size 16"):
        found(export("mine"))
    with pytest.raises(InputError, match=r"holds only the first 2 blocks of resnet10t"):
        found(export("cut", cut=2), image_size=16)
    path = export("mine")
    with pytest.raises(InputError, match="hold the same weights"):
        found(path, f"{path}/backbone", image_size=16)
    with pytest.raises(InputError, match=r"absent: there is no such folder. Give that of a finished run"):
        found("./absent")
