import pytest
import torch
from torch import nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.models import backbones
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.models.layers.blocks import ordered_blocks
from ssl_transfer.models.layers.execution_order import observe

# The number of blocks, the first two and the last.
BLOCKS = {
    "vgg16": (5, "features.0", "features.5", "features.24"),
    "resnet18": (9, "stem", "layer1.0", "layer4.1"),
    "inception_v3": (13, "stem", "Conv2d_3b_1x1", "Mixed_7c"),
    "mobilenetv2_050": (19, "stem", "blocks.0.0", "conv_head"),
    "mobilenetv3_small_050": (14, "stem", "blocks.0.0", "conv_head"),
    "efficientnet_b0": (18, "stem", "blocks.0.0", "conv_head"),
    "densenet121": (13, "stem", "features.denseblock1.denselayer1", "features.denseblock4.denselayer3"),
    "convnext_atto": (9, "stem", "stages.0.blocks.0", "stages.3.blocks.1"),
    "vit_tiny_patch16_224": (5, "stem", "blocks.0", "blocks.3"),
    "torchvision/vgg16": (5, "features.0", "features.5", "features.24"),
    "torchvision/resnet18": (9, "stem", "layer1.0", "layer4.1"),
    "torchvision/inception_v3": (13, "stem", "Conv2d_3b_1x1", "Mixed_7c"),
    "torchvision/mobilenet_v2": (19, "stem", "features.1", "features.18"),
    "torchvision/mobilenet_v3_small": (13, "stem", "features.1", "features.12"),
    "torchvision/efficientnet_b0": (18, "stem", "features.1.0", "features.8"),
    "torchvision/densenet121": (62, "stem", "features.denseblock1.denselayer1", "features.denseblock4.denselayer16"),
    "torchvision/convnext_tiny": (22, "stem", "features.1.0", "features.7.2"),
    "torchvision/vit_b_16": (13, "stem", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11"),
    "simple_cnn": (4, "features.0", "features.7", "hidden"),
}


def test_every_family_falls_into_its_blocks(family, make_family):
    backbone = make_family(family)
    blocks = backbone.blocks()
    assert (len(blocks), blocks[0].name, blocks[1].name, blocks[-1].name) == BLOCKS[family]
    parameters = [name for block in blocks for name in block.parameters]
    assert sorted(parameters) == sorted(name for name, _ in backbone.model.named_parameters())
    buffers = [name for block in blocks for name in block.buffers]
    assert sorted(buffers) == sorted(name for name, _ in backbone.model.named_buffers())
    assert all(block.parameters for block in blocks)


def test_looking_changes_nothing(family, make_family):
    backbone = make_family(family)
    backbone.train()
    first = next(module for module in backbone.modules() if not list(module.children()))
    first.eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    backbone.blocks()
    assert torch.equal(torch.rand(3), drawn)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert [module for module in backbone.modules() if not module.training] == [first]
    assert not any(module._forward_pre_hooks for module in backbone.modules())


class Backwards(nn.Module):
    """Registers its layers in the order opposite to that in which it computes, one of them never."""

    def __init__(self, idle: bool = False) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(4))
        self.norm = nn.LayerNorm(4)
        self.first = nn.Conv2d(3, 4, 3)
        if idle:
            self.idle = nn.Linear(2, 2)

    def forward(self, images):
        return self.last(self.norm(self.first(images).mean(dim=(2, 3))) * self.scale)


def test_the_order_is_that_of_computation():
    images = torch.zeros(1, 3, 8, 8)
    order = observe(Backwards(), images)
    assert sorted(order.tensors, key=order.tensors.__getitem__) == [
        *("first.weight", "first.bias", "norm.weight", "norm.bias", "scale", "last.weight", "last.bias")
    ]
    assert order.modules["first"] < order.modules["norm"] < order.tensors["scale"] < order.modules["last"]
    (block,), _ = ordered_blocks(Backwards(), images)
    assert block.modules == ("first", "norm", "last")


def test_layers_that_never_compute_are_named():
    with pytest.raises(InputError, match=r"never compute \(idle\.bias, idle\.weight\)"):
        ordered_blocks(Backwards(idle=True), torch.zeros(1, 3, 8, 8))


def test_a_token_and_a_position_embedding_belong_to_the_stem(make_family):
    assert {"cls_token", "pos_embed"} <= set(make_family("vit_tiny_patch16_224").blocks()[0].parameters)
    stem = make_family("torchvision/vit_b_16").blocks()[0].parameters
    assert {"class_token", "encoder.pos_embedding"} <= set(stem)


def test_a_trailing_norm_belongs_to_the_block_before(make_family):
    for name, norm in (("vit_tiny_patch16_224", "norm.weight"), ("densenet121", "features.norm5.weight")):
        assert norm in make_family(name).blocks()[-1].parameters


def test_every_family_has_layers_and_undecayed_tokens(family, make_family):
    backbone = make_family(family)
    names = [name for name, _ in backbone.named_parameters()]
    assert sorted(backbone.layers()) == sorted(names)
    tokens = {name for name in names if "token" in name or "pos_embed" in name}
    assert backbone.undecayed() & set(names) == tokens
    assert len(tokens) == (2 if "vit" in family else 0)


def test_layers_of_other_libraries_follow_the_blocks(make_family):
    backbone = make_family("torchvision/resnet18")
    layers = backbone.layers()
    assert layers.keys() == dict(backbone.named_parameters()).keys()
    assert layers["model.conv1.weight"] == 0
    assert layers["model.layer4.1.bn2.bias"] == 8
    assert make_family("torchvision/vit_b_16").undecayed() == {"model.class_token", "model.encoder.pos_embedding"}


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "regnety_002"])
def test_stages_of_other_families_are_rows_of_blocks(name):
    size = 224 if name.startswith("swin") else 32
    config = BackboneConfig(name=name, stem="standard")
    spec = backbones.make_spec(config, in_chans=3, image_size=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    names = [block.name for block in backbones.Backbone(spec).blocks()]
    assert names[1] == ("layers.0.blocks.0" if name.startswith("swin") else "s1.b1")
    assert len(names) == (16 if name.startswith("swin") else 14)
