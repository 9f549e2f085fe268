import pytest
import torch

from ssl_transfer.engine.errors import InputError
from ssl_transfer.models import trainable
from ssl_transfer.models.trainable import OUTPUT, select


def counted(backbone, trained) -> int:
    parameters = dict(backbone.model.named_parameters())
    return sum(parameters[name].numel() for name in select(backbone, trained).parameters)


def test_the_counts_of_the_field(make_family):
    assert counted(make_family("vgg16"), "from:features.24") == 7_211_009 - 131_585
    assert counted(make_family("torchvision/vgg16"), "last:1") == 7_211_009 - 131_585
    assert counted(make_family("torchvision/mobilenet_v2"), "from:features.12.conv.1") == 1_862_721 - 1_281
    for name in ("vgg16", "torchvision/vgg16"):
        assert counted(make_family(name), "all") == 14_714_688


@pytest.mark.parametrize("trained", ["last:2", "first:2", "head"])
def test_frozen_means_frozen_in_every_family(family, make_family, trained):
    """A step in training mode moves the trained parameters, and leaves the rest, statistics included, as it is."""
    backbone = make_family(family)
    chosen = select(backbone, trained)
    backbone.train()
    trainable.apply(chosen, backbone)
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    torch.manual_seed(0)
    features = backbone(torch.rand(4, 3, backbone.spec.image_size, backbone.spec.image_size))
    if trained != "head":
        (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
    with_gradient = {name for name, parameter in backbone.model.named_parameters() if parameter.grad is not None}
    assert with_gradient == set(chosen.parameters)
    prefixes = tuple(name.rpartition(".")[0] for name in chosen.parameters)
    moved = {name for name, value in backbone.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[0] for name in moved} <= set(prefixes)
    # The statistics of trained norms do move.
    norms = {
        name
        for name, module in backbone.model.named_modules()
        if name in prefixes and isinstance(module, torch.nn.BatchNorm2d)
    }
    assert {name.rpartition(".")[0] for name in moved} == norms


@pytest.mark.parametrize("trained", ["last:2", "first:2"])
def test_what_is_trained_is_whole_blocks(family, make_family, trained):
    backbone = make_family(family)
    blocks = backbone.blocks()
    chosen = select(backbone, trained)
    some = blocks[-2:] if trained == "last:2" else blocks[:2]
    assert set(chosen.parameters) == {name for block in some for name in block.parameters}
    assert chosen.boundary == (blocks[-2].modules[0] if trained == "last:2" else None)


def test_dropout_before_the_boundary_is_frozen_and_behind_it_is_not(make_family):
    backbone = make_family("vit_tiny_patch16_224", "pos_drop_rate=0.5", "proj_drop_rate=0.5")
    chosen = select(backbone, "last:1")
    backbone.train()
    trainable.hold(chosen, backbone)
    assert not backbone.model.pos_drop.training
    assert not backbone.model.blocks[2].mlp.drop1.training
    assert backbone.model.blocks[3].mlp.drop1.training


def test_from_a_module_inside_a_block(make_family):
    backbone = make_family("torchvision/mobilenet_v2")
    chosen = select(backbone, "from:features.12.conv.1")
    assert chosen.boundary == "features.12.conv.1"
    assert chosen.parameters[0] == "features.12.conv.1.0.weight"
    assert "features.12.conv.0" in chosen.frozen
    assert "features.11" in chosen.frozen
    assert not any(name.startswith("features.13") for name in chosen.frozen)


def test_words_without_a_boundary(make_family):
    backbone = make_family("resnet18")
    assert select(backbone, "head").boundary == OUTPUT
    assert select(backbone, "head").frozen == ("",)
    for trained in ("all", "last:9", "first:9", "from:stem", "from:conv1"):
        chosen = select(backbone, trained)
        assert (chosen.boundary, chosen.frozen, len(chosen.parameters)) == (None, (), 60)
    assert select(backbone, "first:3").boundary is None
    assert select(backbone, "from:layer4").boundary == "layer4"


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ("last:0", r"last:0: this backbone has 9 blocks\. Allowed: last:1 to last:9"),
        ("first:10", r"first:10: this backbone has 9 blocks\. Allowed: first:1 to first:9"),
        ("from:layer4.2", r"no block or module of this name\. Did you mean layer4\.1"),
        ("from:fc", r"nothing to train from there on"),
        ("heads", r"'heads' says nothing .* Allowed: head .*last:N"),
        ("last:-1", "Allowed"),
        ("last:", "Allowed"),
        ("from:", "Allowed"),
    ],
)
def test_mistakes_are_told(make_family, trained, message):
    with pytest.raises(InputError, match=message):
        select(make_family("resnet18"), trained)
