import copy

import pytest
import torch

from ssl_transfer.models import trainable
from ssl_transfer.models.backbones import first_blocks
from ssl_transfer.models.frozen_boundary import NotTraceableError, cut
from ssl_transfer.models.trainable import OUTPUT, select

INSIDE = {
    "vgg16": "features.26",
    "resnet18": "layer4.1.conv2",
    "inception_v3": "Mixed_7c.branch3x3_2a",
    "mobilenetv2_050": "blocks.6.0.conv_dw",
    "mobilenetv3_small_050": "blocks.4.1.se.conv_expand",
    "efficientnet_b0": "blocks.6.0.conv_pwl",
    "densenet121": "features.denseblock4.denselayer2.conv2",
    "convnext_atto": "stages.3.blocks.1.mlp.fc2",
    "vit_tiny_patch16_224": "blocks.2.attn.proj",
    "torchvision/vgg16": "features.26",
    "torchvision/resnet18": "layer4.1.conv2",
    "torchvision/inception_v3": "Mixed_7c.branch3x3_2a",
    "torchvision/mobilenet_v2": "features.12.conv.1",
    "torchvision/mobilenet_v3_small": "features.11.block.2.fc2",
    "torchvision/efficientnet_b0": "features.7.0.block.3",
    "torchvision/densenet121": "features.denseblock4.denselayer2.conv2",
    "torchvision/convnext_tiny": "features.7.2.block.5",
    "torchvision/vit_b_16": "encoder.layers.encoder_layer_11.mlp",
    "simple_cnn": "features.17",
}


def images_of(backbone, count: int = 3) -> torch.Tensor:
    size = backbone.spec.image_size
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def halves_equal_the_whole(backbone, boundary: str) -> torch.Tensor:
    backbone.eval()
    before, after = cut(backbone, boundary)
    images = images_of(backbone)
    with torch.no_grad():
        features = before(images)
        kept = features.clone()
        # Through a store, which lays it out anew.
        stored = torch.empty(features.shape).copy_(features)
        expected = backbone(images)
        assert torch.equal(after(stored), expected)
        assert torch.equal(after(features), expected)
    assert torch.equal(features, kept)
    return features


@pytest.mark.parametrize("word", ["last:2", "inside"])
def test_the_halves_compute_the_whole_bit_for_bit(family, make_family, word):
    backbone = make_family(family)
    chosen = select(backbone, f"from:{INSIDE[family]}" if word == "inside" else word)
    halves_equal_the_whole(backbone, chosen.boundary)


@pytest.mark.parametrize("word", ["last:2", "inside"])
def test_training_the_second_half_trains_the_backbone(family, make_family, word):
    """The same gradients and the same statistics as in one go, in training mode, with the same random numbers."""
    live = make_family(family)
    chosen = select(live, f"from:{INSIDE[family]}" if word == "inside" else word)
    live.train()
    trainable.apply(chosen, live)
    parts = copy.deepcopy(live)
    before, after = cut(parts, chosen.boundary)
    assert [module.training for module in parts.modules()] == [module.training for module in live.modules()]
    images = images_of(live)
    with torch.no_grad():
        features = before(images)
    assert not features.requires_grad
    outputs = []
    for function, values in ((live, images), (after, features)):
        torch.manual_seed(3)
        output = function(values)
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        outputs.append(output)
    assert torch.equal(*outputs)
    expected = {name: parameter.grad for name, parameter in live.model.named_parameters()}
    assert {name for name, gradient in expected.items() if gradient is not None} == set(chosen.parameters)
    for name, parameter in parts.model.named_parameters():
        assert (parameter.grad is None) == (expected[name] is None)
        assert parameter.grad is None or torch.equal(parameter.grad, expected[name])
    state = live.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in parts.state_dict().items())
    # One set of weights: what an optimiser does to the backbone, the second half does.
    with torch.no_grad():
        dict(parts.model.named_parameters())[chosen.parameters[-1]].add_(1.0)
        parts.eval()
        assert torch.equal(after(before(images)), parts(images))


def test_dropout_is_drawn_behind_the_cut_and_only_there(make_family):
    backbone = make_family("vit_tiny_patch16_224", "pos_drop_rate=0.5", "proj_drop_rate=0.5", "attn_drop_rate=0.5")
    chosen = select(backbone, "last:1")
    before, after = cut(backbone, chosen.boundary)
    backbone.train()
    trainable.apply(chosen, backbone)
    images = images_of(backbone)
    with torch.no_grad():
        features = before(images)
        assert torch.equal(before(images), features)
        assert not torch.equal(after(features), after(features))
        backbone.eval()
        assert torch.equal(after(features), after(features))


@pytest.mark.parametrize(
    ("name", "extra", "inside", "holder"),
    [
        # The attention is told its dropout by hand, in training alone.
        ("vit_tiny_patch16_224", ("attn_drop_rate=0.5",), "blocks.2.attn.proj", "blocks.2"),
        # The output projection is never called: its weights are passed to a function.
        ("torchvision/vit_b_16", (), "encoder.layers.encoder_layer_10.self_attention.out_proj", None),
    ],
)
def test_where_a_modules_inside_cannot_be_followed_it_is_cut_off_whole(make_family, name, extra, inside, holder):
    backbone = make_family(name, *extra)
    features = halves_equal_the_whole(backbone, inside)
    assert torch.equal(features, halves_equal_the_whole(backbone, holder or ".".join(inside.split(".")[:3])))


def test_a_way_that_differs_in_training_is_not_cut(make_family):
    """EfficientNet's own dropout stands in the function of the whole model."""
    with pytest.raises(NotTraceableError, match="one thing in training and another in evaluation"):
        cut(make_family("efficientnet_b0", "drop_rate=0.5"), "blocks.6.0")


def test_a_second_half_that_works_in_place_spares_what_it_is_given(make_family):
    backbone = make_family("vgg16")
    assert backbone.model.features[25].inplace
    features = halves_equal_the_whole(backbone, "features.25")
    assert (features < 0).any()


def test_the_cut_moves_back_to_where_one_tensor_crosses(make_family):
    backbone = make_family("torchvision/mobilenet_v2")
    inside = halves_equal_the_whole(backbone, "features.12.conv.1")
    assert torch.equal(inside, halves_equal_the_whole(backbone, "features.12"))
    assert inside.shape[1] == 96


def test_the_output_is_a_boundary_and_the_images_are_none(make_family):
    backbone = make_family("resnet18")
    images = images_of(backbone)
    assert torch.equal(halves_equal_the_whole(backbone, OUTPUT), backbone(images))
    with pytest.raises(NotTraceableError, match="but the images themselves"):
        cut(backbone, "conv1")


def test_a_shortened_backbone_is_cut_like_any(make_family):
    kept = first_blocks(make_family("resnet18"), 4)
    assert halves_equal_the_whole(kept, select(kept, "last:1").boundary).shape[1:] == (64, 8, 8)


def test_what_was_stored_is_laid_out_as_in_one_go(make_family):
    """Convolutions add up in another order in another memory format."""
    backbone = make_family("resnet18").eval()
    before, after = cut(backbone, "layer2.0")
    with torch.no_grad():
        features = before(images_of(backbone))
        stored = features.contiguous(memory_format=torch.contiguous_format)
        seen = []
        backbone.model.layer2[0].register_forward_pre_hook(lambda _, values: seen.append(values[0].stride()))
        after(stored)
    assert seen == [features.stride()]
    assert stored.stride() != features.stride()
