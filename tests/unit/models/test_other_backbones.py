"""torchvision's models, the simple network, maps, and backbones cut short."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.weight_files import WeightFile
from ssl_transfer.models import backbones, pretrained, torchvision_models
from ssl_transfer.models.backbones import Backbone, BackboneConfig, BackboneSpec, first_blocks
from ssl_transfer.models.heads import HeadConfig, make_head

SHARED = Path(__file__).parents[3] / "../shared"
NEEDS_SHARED = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared beside the project"),
]
# D, the grid at the family's image size, and the tokens before the patches.
MAPS = {
    "vgg16": (512, 1, None),
    "resnet18": (512, 1, None),
    "inception_v3": (2048, 1, None),
    "mobilenetv2_050": (1280, 1, None),
    "mobilenetv3_small_050": (288, 1, None),
    "efficientnet_b0": (1280, 1, None),
    "densenet121": (40, 1, None),
    "convnext_atto": (32, 1, None),
    "vit_tiny_patch16_224": (16, 2, 1),
    "torchvision/vgg16": (512, 1, None),
    "torchvision/resnet18": (512, 1, None),
    "torchvision/inception_v3": (2048, 1, None),
    "torchvision/mobilenet_v2": (1280, 1, None),
    "torchvision/mobilenet_v3_small": (576, 1, None),
    "torchvision/efficientnet_b0": (1280, 1, None),
    "torchvision/densenet121": (1024, 1, None),
    "torchvision/convnext_tiny": (768, 1, None),
    "torchvision/vit_b_16": (768, 2, 1),
    "simple_cnn": (512, 4, None),
}
BEHIND_THE_POOLING = ("mobilenetv3_small_050", "convnext_atto", "torchvision/convnext_tiny", "simple_cnn")


def spec_of(name, *, stem="standard", arguments=(), channels=3, size=32) -> BackboneSpec:
    config = BackboneConfig(name=name, stem=stem, arguments=arguments)
    return backbones.make_spec(
        config, in_chans=channels, image_size=size, mean=(0.4,) * channels, std=(0.2,) * channels
    )


def images_of(backbone, count=2) -> torch.Tensor:
    spec = backbone.spec
    shape = (count, spec.in_chans, spec.image_size, spec.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_maps_are_the_features_before_the_pooling(family, make_family):
    backbone = make_family(family)
    width, side, num_prefix = MAPS[family]
    shape = backbone.map_shape
    assert backbone.training
    assert (shape.features, shape.grid, shape.num_prefix_tokens) == (width, (side, side), num_prefix or 0)
    assert (backbone.map_features, shape.is_tokens) == (width, num_prefix is not None)
    images = images_of(backbone)
    with torch.no_grad():
        maps, features = backbone.eval().maps(images), backbone(images)
    if num_prefix is None:
        assert maps.shape == (2, width, side, side)
        pooled = maps.mean(dim=(2, 3))
    else:
        assert maps.shape == (2, num_prefix + side * side, width)
        # Our transformers average their patches; torchvision's pass their class token on.
        pooled = maps[:, 0] if family.startswith("torchvision/") else maps[:, num_prefix:].mean(dim=1)
    assert (pooled.shape == features.shape and torch.allclose(pooled, features, atol=1e-5)) == (
        family not in BEHIND_THE_POOLING
    )


def test_maps_of_a_copy_are_the_copys(make_family):
    """The momentum encoder of MoCo is a copy."""
    backbone = make_family("torchvision/resnet18").eval()
    images = images_of(backbone)
    before = backbone.maps(images)
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        other.model.conv1.weight.zero_()
    assert not torch.equal(other.maps(images), before)
    assert torch.equal(backbone.maps(images), before)


def test_channels_last_families_give_channels_first_maps():
    backbone = Backbone(spec_of("torchvision/swin_t", size=64)).eval()
    images = images_of(backbone)
    assert backbone.maps(images).shape == (2, 768, 2, 2)
    assert torch.allclose(backbone.maps(images).mean(dim=(2, 3)), backbone(images), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "inception_v3", "convnext_tiny"])
def test_torchvision_features_are_what_its_classifier_takes(make_family, name):
    """Against the classifier as torchvision builds it, with the same weights."""
    backbone = make_family(f"torchvision/{name}").eval()
    extra = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
    plain = torchvision.models.get_model(name, weights=None, **extra).eval().to(memory_format=torch.channels_last)
    loaded = plain.load_state_dict(backbone.model.state_dict(), strict=False)
    assert not loaded.unexpected_keys
    linear = [module for module in plain.modules() if isinstance(module, nn.Linear)][-1]
    taken = []
    linear.register_forward_pre_hook(lambda _, values: taken.append(values[0]))
    images = images_of(backbone)
    with torch.no_grad():
        plain(backbone.normalize(images))
        assert torch.equal(backbone(images), taken[0])


def test_no_classifier_is_left(make_family):
    for name in ("vgg16", "torchvision/vgg16"):
        backbone = make_family(name)
        assert sum(parameter.numel() for parameter in backbone.parameters()) == 14_714_688
        assert not any(isinstance(module, nn.Linear) for module in backbone.modules())
    inception = make_family("torchvision/inception_v3")
    assert "AuxLogits" not in dict(inception.model.named_children())
    assert not any(isinstance(module, nn.Dropout) for module in inception.modules())


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(channels):
    for name in ("torchvision/resnet18", "simple_cnn", "digit_cnn"):
        backbone = Backbone(spec_of(name, channels=channels))
        assert torch.isfinite(backbone(images_of(backbone, 4))).all()


def test_the_simple_network_has_the_baselines_size():
    backbone = Backbone(spec_of("simple_cnn"))
    trained = sum(parameter.numel() for parameter in backbone.parameters())
    statistics = sum(
        value.numel() for name, value in backbone.model.named_buffers() if not name.endswith("num_batches_tracked")
    )
    assert backbone.num_features == 128
    assert trained + 129 == 4_645_761
    assert trained + statistics + 129 == 4_649_345
    kinds = [type(module) for module in backbone.modules()]
    assert (kinds.count(nn.Conv2d), kinds.count(nn.MaxPool2d), kinds.count(nn.AdaptiveAvgPool2d)) == (6, 2, 1)


def test_the_network_for_digits_is_that_of_the_paper():
    """Figure 4a of Ganin and Lempitsky 2015: what follows from its layers, counted by hand."""
    backbone = Backbone(spec_of("digit_cnn", stem="small", size=28))
    assert sum(parameter.numel() for parameter in backbone.parameters()) == (5 * 5 * 3 + 1) * 32 + (5 * 5 * 32 + 1) * 48
    assert [module.kernel_size for module in backbone.modules() if isinstance(module, nn.Conv2d)] == [(5, 5), (5, 5)]
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in backbone.modules())
    images = images_of(backbone, 4)
    assert backbone(images).shape == (4, 2352)
    assert torch.equal(backbone(images), backbone.maps(images).flatten(1))
    head = make_head(HeadConfig(kind="hidden-100-100"), backbone, 10)
    assert sum(parameter.numel() for parameter in head.parameters()) == 2353 * 100 + 101 * 100 + 101 * 10
    assert [type(layer) for layer in head.layers] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert head(backbone(images)).shape == (4, 10)
    with pytest.raises(InputError, match="digit_cnn has no ImageNet weights"):
        pretrained.imagenet(spec_of("digit_cnn", size=28), weights=None)


def test_small_stems_of_torchvision():
    model = Backbone(spec_of("torchvision/resnet18", stem="small")).model
    assert (model.conv1.kernel_size, model.conv1.stride) == ((3, 3), (1, 1))
    assert isinstance(model.maxpool, nn.Identity)
    with pytest.raises(InputError, match=r"no small stem\. Give --backbone\.stem standard"):
        Backbone(spec_of("torchvision/vit_b_16", stem="small"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("torchvision/resnet81", (), r"torchvision .* has no such model\. Did you mean .*torchvision/resnet"),
        ("torchvision/resnet18", ("num_classes=3",), "num_classes=.*decided here"),
        ("torchvision/inception_v3", ("aux_logits=True",), "aux_logits=.*decided here"),
        ("torchvision/resnet18", ("nothing=3",), "torchvision cannot build .* nothing"),
        ("torchvision/vit_b_16", (), "torchvision cannot build .* for 30 px"),
        ("simple_cnn", ("depth=3",), "simple_cnn takes none"),
        ("digit_cnn", ("depth=3",), "digit_cnn takes none"),
        ("digit_cnm", (), r"Did you mean .*digit_cnn"),
        ("simple_cn", (), r"Did you mean .*simple_cnn"),
    ],
)
def test_mistakes_are_told(name, arguments, message):
    with pytest.raises(InputError, match=message):
        Backbone(spec_of(name, arguments=arguments, size=30))


def save(model, path: Path) -> Path:
    save_file({name: value.clone() for name, value in model.state_dict().items()}, path)
    return path


@pytest.mark.parametrize(
    ("name", "interpolation", "mean"),
    [
        ("torchvision/mobilenet_v3_small", "bilinear", 0.485),
        ("torchvision/efficientnet_b0", "bicubic", 0.485),
    ],
)
def test_torchvision_weights_from_a_file(tmp_path, name, interpolation, mean):
    torch.manual_seed(1)
    plain = torchvision.models.get_model(name.removeprefix("torchvision/"), weights=None)
    backbone = pretrained.imagenet(spec_of(name), weights=save(plain, tmp_path / "w.safetensors"))
    assert backbone.spec.interpolation == interpolation
    assert backbone.spec.mean[0] == mean
    expected = plain.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in backbone.model.state_dict().items())
    assert len(expected) > len(backbone.model.state_dict())


def test_inceptions_normalisation_is_what_torchvision_does_inside():
    found = torchvision_models.preprocessing("torchvision/inception_v3")
    plain = torchvision.models.get_model("inception_v3", weights=None, init_weights=False, transform_input=True)
    images = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = plain._transform_input((images - mean) / std)
    assert torch.allclose((images - found.mean[0]) / found.std[0], expected, atol=1e-5)


def test_weights_of_a_whole_inception_lose_their_auxiliary_classifier(tmp_path):
    plain = torchvision.models.get_model("inception_v3", weights=None, init_weights=False)
    weights = save(plain, tmp_path / "w.safetensors")
    assert any(key.startswith("AuxLogits.") for key in load_file(weights))
    backbone = pretrained.imagenet(spec_of("torchvision/inception_v3", size=96), weights=weights)
    assert backbone.num_features == 2048


def test_weights_that_do_not_fit_are_refused(tmp_path):
    weights = save(torchvision.models.get_model("resnet34", weights=None), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"do not fit torchvision/resnet18: layer1\.2.* is unknown"):
        pretrained.imagenet(spec_of("torchvision/resnet18"), weights=weights)
    with pytest.raises(InputError, match="simple_cnn has no ImageNet weights"):
        pretrained.imagenet(spec_of("simple_cnn"), weights=weights)


def test_old_densenet_keys_and_one_channel(tmp_path):
    plain = torchvision.models.get_model("densenet121", weights=None)
    state = plain.state_dict()
    old = {key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for key, value in state.items()}
    assert old.keys() != state.keys()
    save_file(old, tmp_path / "w.safetensors")
    spec = spec_of("torchvision/densenet121", channels=1)
    model = pretrained.imagenet(spec, weights=tmp_path / "w.safetensors").model
    assert torch.equal(
        model.features.denseblock1.denselayer1.conv2.weight, old["features.denseblock1.denselayer1.conv.2.weight"]
    )
    summed = plain.features.conv0.weight.sum(dim=1, keepdim=True)
    assert torch.allclose(model.features.conv0.weight, summed)


def test_a_position_embedding_is_resampled(tmp_path):
    plain = torchvision.models.get_model("vit_b_32", weights=None)
    weights = save(plain, tmp_path / "w.safetensors")
    model = pretrained.imagenet(spec_of("torchvision/vit_b_32", size=64), weights=weights).model
    assert model.encoder.pos_embedding.shape == (1, 5, 768)
    assert torch.equal(model.class_token, plain.class_token)


def test_interpolation_of_timms_weights(tmp_path):
    for name, interpolation in (("mobilenetv2_050", "bicubic"), ("mobilenetv3_small_050", "bicubic"), ("vgg11", None)):
        expected = interpolation or timm.get_pretrained_cfg(name).interpolation
        plain = timm.create_model(name, **({"mlp_ratio": 1 / 4096} if name == "vgg11" else {}))
        backbone = pretrained.imagenet(spec_of(name), weights=save(plain, tmp_path / f"{name}.safetensors"))
        assert backbone.spec.interpolation == expected


def test_an_old_description_still_loads(make_backbone, tmp_path):
    backbone = make_backbone()
    pretrained.export(backbone, tmp_path, {})
    path = tmp_path / "backbone.json"
    description = json.loads(path.read_text())
    for name in ("interpolation", "keep_blocks"):
        del description["backbone"][name]
    # Those had no checksums either.
    del description["checksum"], description["weights"]
    path.write_text(json.dumps(description))
    assert pretrained.from_export(WeightFile(tmp_path, "backbone")).spec == backbone.spec


@pytest.mark.parametrize("count", [1, 3])
def test_the_first_blocks_compute_what_they_did(family, make_family, count, tmp_path):
    backbone = make_family(family)
    blocks = backbone.blocks()
    kept = first_blocks(backbone, count)
    assert kept.training
    names = [name for block in blocks[:count] for name in block.parameters]
    assert sorted(names) == sorted(name for name, _ in kept.model.named_parameters())
    state = backbone.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in kept.model.state_dict().items())
    assert [block.parameters for block in kept.blocks()] == [block.parameters for block in blocks[:count]]
    # What the next block is given is what the shortened backbone returns.
    given = []
    backbone.model.get_submodule(blocks[count].modules[0]).register_forward_pre_hook(
        # A dense layer takes a list, which grows afterwards.
        lambda _, values: given.append(torch.cat(values[0], dim=1) if isinstance(values[0], list) else values[0])
    )
    images = images_of(kept)
    with torch.no_grad():
        backbone.eval()(images)
        features, maps = kept.eval()(images), kept.maps(images)
    assert torch.equal(maps.view(given[0].shape), given[0])
    expected = maps[:, 1:].mean(dim=1) if maps.ndim == 3 else maps.mean(dim=(2, 3))
    assert torch.equal(features, expected)
    assert kept.num_features == kept.map_features == features.shape[1]
    if count == 3:
        pretrained.export(kept, tmp_path, {})
        assert len(load_file(tmp_path / "backbone.safetensors")) == len(kept.model.state_dict()) < len(state)
        loaded = pretrained.from_export(WeightFile(tmp_path, "backbone"))
        assert loaded.spec == replace(backbone.spec, keep_blocks=3)
        with torch.no_grad():
            assert torch.equal(loaded.eval()(images), features)


def test_shortening_draws_no_numbers_and_has_bounds(make_family):
    backbone = make_family("resnet18")
    torch.manual_seed(2)
    drawn = torch.rand(3)
    torch.manual_seed(2)
    kept = first_blocks(backbone, 2)
    assert torch.equal(torch.rand(3), drawn)
    assert kept.spec.label == "resnet18/first:2"
    for count in (0, 9):
        with pytest.raises(InputError, match=f"first {count} blocks: resnet18 has 9, so 1 to 8"):
            first_blocks(backbone, count)
    with pytest.raises(InputError, match="start from the whole backbone"):
        first_blocks(kept, 1)


def test_a_shortened_backbone_trains(make_family):
    kept = first_blocks(make_family("resnet18"), 2)
    kept.train()
    before = kept.model.bn1.running_mean.clone()
    kept(images_of(kept)).sum().backward()
    assert all(parameter.grad is not None for parameter in kept.parameters())
    assert not torch.equal(kept.model.bn1.running_mean, before)
    assert set(kept.layers().values()) == {0, 1}


class TestShared:
    pytestmark = NEEDS_SHARED

    @pytest.mark.parametrize(
        ("name", "arguments", "file", "interpolation"),
        [
            ("torchvision/mobilenet_v2", (), "mobilenet_v2_torchvision", "bilinear"),
            ("mobilenetv2_100", ("pad_type=same",), "mobilenetv2_100_same", "bicubic"),
        ],
    )
    def test_mobilenet_loads_strictly(self, name, arguments, file, interpolation):
        spec = spec_of(name, arguments=arguments, size=64)
        path = SHARED / f"weights/{file}.safetensors"
        backbone = pretrained.imagenet(spec, weights=path)
        stored = load_file(path)
        state = backbone.model.state_dict()
        assert all(torch.equal(state[key], stored[key].to(state[key].dtype)) for key in state)
        assert all(key.startswith("classifier.") for key in stored.keys() - state.keys())
        assert sum(parameter.numel() for parameter in backbone.parameters()) == 2_259_265 - 34_112 - 1_281
        assert backbone.spec.interpolation == interpolation
        features = backbone.eval()(images_of(backbone)).detach()
        assert torch.isfinite(features).all()
        assert float(features.std()) > 0.1
        kept = pretrained.imagenet(replace(spec, keep_blocks=4), weights=path)
        assert len(kept.blocks()) == 4
        assert all(torch.equal(value, state[key]) for key, value in kept.model.state_dict().items())
