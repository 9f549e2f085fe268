import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.weight_files import WeightFile
from ssl_transfer.models import backbones, factory, pretrained
from ssl_transfer.models.backbones import Backbone, BackboneConfig, BackboneSpec

SHARED = Path(__file__).parents[3] / "../shared"
SMALL_NET = "mobilenetv3_small_050"
TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2}
TINY_ARGUMENTS = tuple(f"{name}={value}" for name, value in TINY.items())


def spec_of(name=SMALL_NET, *, stem="standard", arguments=(), channels=3, size=32) -> BackboneSpec:
    config = BackboneConfig(name=name, stem=stem, arguments=arguments)
    return backbones.make_spec(
        config, in_chans=channels, image_size=size, mean=(0.4,) * channels, std=(0.2,) * channels
    )


def same_state(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", [SMALL_NET, "resnet10t", "vit_tiny_patch16_224"])
def test_construction_moves_no_statistics_and_draws_no_numbers(name):
    arguments = TINY_ARGUMENTS if name.startswith("vit") else ()
    spec = spec_of(name, arguments=arguments)
    torch.manual_seed(3)
    plain = factory.create(spec)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    backbone = Backbone(spec)
    assert torch.equal(torch.rand(3), drawn)
    assert same_state(backbone.model.state_dict(), plain.state_dict())
    assert backbone.training


@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
def test_looking_up_the_width_changes_nothing(make_backbone, kind):
    backbone = make_backbone(kind)
    for training in (True, False):
        backbone.train(training)
        before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
        width = backbones._num_features(backbone, backbone.spec)
        assert same_state(backbone.model.state_dict(), before)
        assert backbone.model.training == training
        assert width == backbone(torch.rand(2, 3, 16, 16)).shape[1] == backbone.num_features


def test_the_width_counts_layers_behind_the_pooling():
    backbone = Backbone(spec_of())
    assert backbone.num_features == 1024
    assert backbone.model.num_features != 1024


def test_small_and_standard_stem():
    standard, small = (Backbone(spec_of("resnet18", stem=stem)).model for stem in ("standard", "small"))
    assert (standard.conv1.kernel_size, standard.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(standard.maxpool, torch.nn.MaxPool2d)
    assert (small.conv1.kernel_size, small.conv1.stride, small.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(small.maxpool, torch.nn.Identity)
    images = torch.rand(1, 3, 32, 32)
    assert standard.eval().forward_features(images).shape[2:] == (1, 1)
    assert small.eval().forward_features(images).shape[2:] == (4, 4)


def test_a_small_stem_keeps_a_kernel_of_three():
    standard, small = (pretrained.scratch(spec_of(stem=stem), seed=0).model for stem in ("standard", "small"))
    assert (standard.conv_stem.stride, small.conv_stem.stride) == ((2, 2), (1, 1))
    assert torch.equal(standard.conv_stem.weight, small.conv_stem.weight)


@pytest.mark.parametrize(("size", "patch"), [(16, 2), (32, 4), (64, 8)])
def test_a_small_transformer_has_an_eighth_of_the_image_a_patch(size, patch):
    model = Backbone(spec_of("vit_tiny_patch16_224", stem="small", arguments=TINY_ARGUMENTS, size=size)).model
    assert model.patch_embed.patch_size == (patch, patch)
    assert model.patch_embed.grid_size == (8, 8)


@pytest.mark.parametrize(("size", "stem"), [(32, "small"), (63, "small"), (64, "standard"), (224, "standard")])
def test_auto_takes_the_small_stem_below_64_px(size, stem):
    assert spec_of(stem="auto", size=size).stem == stem


def test_unknown_names_suggest_near_ones():
    with pytest.raises(InputError, match=r"--backbone\.name resnet81.*Did you mean .*resnet"):
        spec_of("resnet81")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("depth",), "write name=value"), (("no_such=3",), "no_such"), (("2x=3",), "write name=value")],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        Backbone(spec_of(arguments=arguments))


def test_arguments_reach_timm():
    spec = spec_of("vit_tiny_patch16_224", stem="small", arguments=(*TINY_ARGUMENTS, "patch_size=4"))
    model = Backbone(spec).model
    assert (model.embed_dim, len(model.blocks), model.patch_embed.patch_size) == (16, 2, (4, 4))
    assert spec.label == "vit_tiny_patch16_224/embed_dim=16/depth=2/num_heads=2/patch_size=4"


def test_images_that_are_too_small_are_refused():
    with pytest.raises(InputError, match="does not take images of 32 px"):
        Backbone(spec_of("inception_v3"))


def test_scratch_is_a_function_of_the_seed():
    spec = spec_of("resnet10t")
    first = pretrained.scratch(spec, seed=1).state_dict()
    torch.rand(5)
    assert same_state(pretrained.scratch(spec, seed=1).state_dict(), first)
    assert not same_state(pretrained.scratch(spec, seed=2).state_dict(), first)


def test_normalisation_is_the_specs():
    backbone = Backbone(spec_of())
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(backbone.normalize(images), (images - 0.4) / 0.2, atol=1e-6)
    assert torch.allclose(backbone.eval()(images), backbone.model((images - 0.4) / 0.2), atol=1e-5)


@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_export_round_trip(make_backbone, tmp_path, kind, channels):
    backbone = make_backbone(kind, channels=channels)
    backbone(torch.rand(8, channels, 16, 16))  # moves the statistics of BatchNorm
    pretrained.export(backbone, tmp_path / "backbone", {"method": "none"})
    file = WeightFile(tmp_path, "backbone")
    loaded, provenance = pretrained.from_export(file), file.description["provenance"]
    assert provenance == {"method": "none"}
    assert loaded.spec == backbone.spec
    assert same_state(loaded.state_dict(), backbone.state_dict())
    images = torch.rand(4, channels, 16, 16)
    assert torch.equal(loaded.eval()(images), backbone.eval()(images))


def test_an_export_that_does_not_fit_is_refused(make_backbone, tmp_path):
    backbone = make_backbone()
    backbone.spec = dataclasses.replace(backbone.spec, arguments=(*backbone.spec.arguments[:2], "channels=(8,8,8,8)"))
    pretrained.export(backbone, tmp_path, {})
    with pytest.raises(InputError, match="do not fit resnet10t"):
        pretrained.from_export(WeightFile(tmp_path, "backbone"))


@pytest.fixture(scope="module")
def classifier():
    """A classifier of 1,000 classes with weights that nothing else draws."""
    torch.manual_seed(17)
    return timm.create_model(SMALL_NET).eval()


def save(model, path: Path, dtype=torch.float32) -> Path:
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in model.state_dict().items()}
    save_file(cast, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_imagenet_weights_from_a_file(classifier, tmp_path, dtype):
    backbone = pretrained.imagenet(spec_of(), weights=save(classifier, tmp_path / "weights.safetensors", dtype))
    # The normalisation is that of the weights, not that of the images.
    assert backbone.spec.mean == (0.485, 0.456, 0.406)
    assert backbone.spec.std == (0.229, 0.224, 0.225)
    assert all(parameter.dtype == torch.float32 for parameter in backbone.parameters())
    images = torch.rand(2, 3, 32, 32)
    normalised = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    expected = classifier.forward_head(classifier.forward_features(normalised), pre_logits=True)
    assert torch.allclose(backbone.eval()(images), expected, atol=1e-4 if dtype == torch.float32 else 0.05)


def test_imagenet_weights_from_a_pth_file(classifier, tmp_path):
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    backbone = pretrained.imagenet(spec_of(), weights=tmp_path / "weights.pth")
    assert torch.equal(backbone.model.conv_stem.weight, classifier.conv_stem.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_imagenet_weights_on_one_channel(classifier, tmp_path, dtype):
    weights = save(classifier, tmp_path / "weights.safetensors", dtype)
    backbone = pretrained.imagenet(spec_of(channels=1), weights=weights)
    found = backbone.model.conv_stem.weight
    assert torch.allclose(found, classifier.conv_stem.weight.sum(dim=1, keepdim=True), atol=5e-3)
    assert backbone.spec.mean == pytest.approx((0.449,))
    assert backbone.spec.std == pytest.approx((0.226,))


def test_misfits_are_told_shortly(classifier, tmp_path):
    weights = save(classifier, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"do not fit mobilenetv3_small_100: .*; and \d+ more\.") as error:
        pretrained.imagenet(spec_of("mobilenetv3_small_100"), weights=weights)
    assert len(str(error.value)) < 500
    with pytest.raises(InputError, match=r"is missing|is unknown"):
        pretrained.imagenet(spec_of("resnet10t"), weights=weights)


def test_a_small_stem_of_another_shape_has_a_hint(tmp_path):
    arguments = ("stem_type=", "channels=(8,8,16,16)")
    plain = timm.create_model("resnet10t", stem_type="", channels=(8, 8, 16, 16))
    weights = save(plain, tmp_path / "weights.safetensors")
    assert pretrained.imagenet(spec_of("resnet10t", arguments=arguments), weights=weights).num_features == 16
    with pytest.raises(InputError, match=r"try --backbone\.stem standard"):
        pretrained.imagenet(spec_of("resnet10t", stem="small", arguments=arguments), weights=weights)


@pytest.mark.parametrize(
    ("size", "stem", "channels"), [(224, "standard", 3), (96, "standard", 3), (32, "small", 3), (32, "small", 1)]
)
def test_imagenet_weights_of_a_transformer(tmp_path, size, stem, channels):
    plain = timm.create_model("vit_tiny_patch16_224", **TINY)
    weights = save(plain, tmp_path / "weights.safetensors")
    spec = spec_of("vit_tiny_patch16_224", stem=stem, arguments=TINY_ARGUMENTS, size=size, channels=channels)
    model = pretrained.imagenet(spec, weights=weights).model
    assert torch.equal(model.blocks[1].mlp.fc1.weight, plain.blocks[1].mlp.fc1.weight)
    # At the size of the weights the position embedding is what it was; elsewhere it is resampled.
    assert (model.pos_embed.shape == plain.pos_embed.shape) == (size == 224)
    if size == 224:
        assert torch.equal(model.pos_embed, plain.pos_embed)
    assert torch.isfinite(model(torch.rand(1, channels, size, size))).all()


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(InputError, match=r"absent\.pth: there is no such file"):
        pretrained.imagenet(spec_of(), weights=tmp_path / "absent.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be had from"):
        pretrained.imagenet(spec_of(), weights=tmp_path / "broken.safetensors")


def test_models_without_weights_say_so():
    name = next(name for name in timm.list_models("resnet*") if not timm.get_pretrained_cfg(name).has_weights)
    with pytest.raises(InputError, match=f"no ImageNet weights for {name}: supply them with --imagenet-weights"):
        pretrained.imagenet(spec_of(name), weights=None)


@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
def test_layers_are_ordered_from_the_stem(make_backbone, kind):
    backbone = make_backbone(kind)
    layers = backbone.layers()
    assert layers.keys() == dict(backbone.named_parameters()).keys()
    depths = list(layers.values())
    assert depths == sorted(depths)
    assert set(depths) == set(range(5 if kind == "convolutional" else 3))
    stem = "model.conv1.weight" if kind == "convolutional" else "model.patch_embed.proj.weight"
    assert layers[stem] == 0


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared beside the project")
def test_the_shared_mobilenet_loads():
    spec = spec_of("mobilenetv2_100", arguments=("pad_type=same",), size=64)
    backbone = pretrained.imagenet(spec, weights=SHARED / "weights/mobilenetv2_100_same.safetensors")
    assert backbone.num_features == 1280
    # Without the one logit of the project that these weights serve.
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 2_259_265 - 34_112 - 1_281
    features = backbone.eval()(torch.rand(2, 3, 64, 64))
    assert torch.isfinite(features).all()
    assert float(features.detach().std()) > 0.1
    with pytest.raises(InputError, match="do not fit"):
        pretrained.imagenet(
            spec_of("mobilenetv3_small_100"), weights=SHARED / "weights/mobilenetv2_100_same.safetensors"
        )


def test_networks_of_one_structure_share_their_order(make_backbone):
    first, second = make_backbone("convolutional"), make_backbone("convolutional", seed=1)
    assert first.ordered() is second.ordered()
    assert first.ordered() != make_backbone("transformer").ordered()
    # A layer that was taken out afterwards is missed.
    whole = first.ordered()[1].modules
    second.model.layer4 = torch.nn.Identity()
    assert "layer4.0" in whole
    assert "layer4.0" not in second.ordered()[1].modules
