"""Blocks with places in the image, whatever order a network keeps its maps in; Grad-CAM on them; neighbours."""

import pytest
import torch
import torch.nn.functional as F

from ssl_transfer.engine.errors import InputError
from ssl_transfer.evaluation.features.knn import nearest
from ssl_transfer.evaluation.predictions.grad_cam import grad_cam
from ssl_transfer.evaluation.predictions.spatial_maps import maps_of, principal, routed, spatial_blocks, strongest
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.backbones import Backbone, BackboneConfig
from ssl_transfer.models.classifier import Classifier
from ssl_transfer.models.heads import HeadConfig, make_head

BACKBONES = {
    "resnet": BackboneConfig(
        name="resnet10t", stem="standard", arguments=("stem_type=", "stem_width=8", "channels=(8,8,16,16)")
    ),
    "vit": BackboneConfig(
        name="vit_tiny_patch16_224", stem="small", arguments=("embed_dim=16", "depth=2", "num_heads=2")
    ),
    "class token": BackboneConfig(
        name="vit_tiny_patch16_224",
        stem="small",
        arguments=("embed_dim=16", "depth=3", "num_heads=2", "global_pool=token", "reg_tokens=2"),
    ),
    "swin": BackboneConfig(
        name="swin_tiny_patch4_window7_224",
        stem="standard",
        arguments=("img_size=32", "patch_size=2", "window_size=4", "embed_dim=12", "depths=(1,1)", "num_heads=(2,2)"),
    ),
    "mobilenet": BackboneConfig(name="mobilenetv3_small_050", stem="small"),
    "torchvision": BackboneConfig(name="torchvision/squeezenet1_1", stem="standard"),
    "simple": BackboneConfig(name="digit_cnn"),
}


def built(kind: str, size: int = 32) -> Backbone:
    spec = backbones.make_spec(BACKBONES[kind], in_chans=3, image_size=size, mean=(0.5,) * 3, std=(0.25,) * 3)
    return pretrained.scratch(spec, seed=0).eval()


def classifier_on(kind: str, head: HeadConfig | None = None, size: int = 32) -> Classifier:
    backbone = built(kind, size)
    torch.manual_seed(0)
    made = make_head(head or HeadConfig(), backbone, 3)
    torch.nn.init.normal_(made.layers[-1].weight)
    return Classifier(backbone, made.eval(), torch.arange(3))


@pytest.mark.parametrize("kind", BACKBONES)
def test_every_block_that_has_places_gives_its_map(kind, make_batch):
    backbone, views = built(kind), make_batch(2, size=32).images
    blocks = spatial_blocks(backbone)
    names = [block.name for block in backbone.blocks()]
    found = [block.name for block in blocks]
    assert len(found) >= 2
    assert found == [name for name in names if name in found]
    for block, maps in zip(blocks, maps_of(backbone, blocks, views), strict=True):
        assert maps.ndim == 4
        assert maps.shape[0] == 2
        assert maps.shape[2] == maps.shape[3] > 1, block.name


@pytest.mark.parametrize("kind", BACKBONES)
def test_maps_pass_through_a_module_and_back_unchanged(kind, make_batch):
    backbone, views = built(kind), make_batch(2, size=32).images
    with torch.no_grad():
        plain = backbone(views)
        for block in spatial_blocks(backbone):
            with routed(block, torch.nn.Identity()):
                assert torch.equal(backbone(views), plain)
        assert torch.equal(backbone(views), plain)


def test_the_tokens_of_patches_lie_row_by_row(make_batch):
    backbone, views = built("class token"), make_batch(1, size=32).images
    block = spatial_blocks(backbone)[-1]
    assert (block.layout, block.num_prefix_tokens) == ("tokens", 3)
    with torch.no_grad():
        tokens = backbone.maps(views)
    (maps,) = maps_of(backbone, [block], views)
    assert maps.shape[2:] == (8, 8)
    torch.testing.assert_close(maps[0, :, 2, 5], tokens[0, 3 + 2 * 8 + 5])


def test_grad_cam_by_hand(make_batch):
    classifier, views = classifier_on("resnet", size=64), make_batch(4, size=64).images
    classes = torch.tensor([0, 1, 2, 0])
    found = grad_cam(classifier, spatial_blocks(classifier.backbone), views, classes)
    block = spatial_blocks(classifier.backbone)[-1]
    assert found.block == block.name == "layer4.0"
    maps = classifier.backbone.maps(views).detach().requires_grad_()
    scores = classifier.scores(maps.mean(dim=(2, 3)))
    gradient = torch.autograd.grad(scores[torch.arange(4), classes].sum(), maps)[0]
    raw = (gradient.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1, keepdim=True).relu().detach()
    expected = F.interpolate(raw, size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
    expected = expected / expected.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(found.weights, expected, atol=1e-4, rtol=1e-4)
    assert bool(found.weights.any())


@pytest.mark.parametrize("kind", BACKBONES)
def test_grad_cam_of_any_network(kind, make_batch):
    classifier, views = classifier_on(kind), make_batch(3, size=32).images
    state = {name: value.clone() for name, value in classifier.backbone.state_dict().items()}
    found = grad_cam(classifier, spatial_blocks(classifier.backbone), views, torch.tensor([0, 1, 2]))
    assert found.weights.shape == (3, 32, 32)
    assert float(found.weights.min()) >= 0.0
    assert float(found.weights.max()) == pytest.approx(1.0)
    assert min(found.grid) > 1
    assert all(torch.equal(value, state[name]) for name, value in classifier.backbone.state_dict().items())


def test_behind_a_class_token_the_block_before_is_looked_at(make_batch):
    views = make_batch(2, size=32).images
    for kind, depth in (("class token", 3), ("vit", 2)):
        classifier = classifier_on(kind)
        blocks = spatial_blocks(classifier.backbone)
        assert blocks[-1].name == f"blocks.{depth - 1}"
        assert grad_cam(classifier, blocks, views, torch.tensor([0, 1])).block == "blocks.1"
        assert grad_cam(classifier, blocks[:-2], views, torch.tensor([0, 1])).block == blocks[-3].name
    classifier = classifier_on("class token")
    with pytest.raises(InputError, match=r"blocks\.2"):
        grad_cam(classifier, spatial_blocks(classifier.backbone)[-1:], views, torch.tensor([0, 1]))


@pytest.mark.parametrize("pooling", ["max", "attention"])
def test_grad_cam_of_a_head_that_takes_maps(pooling, make_batch):
    classifier = classifier_on("resnet", HeadConfig(pooling=pooling))
    found = grad_cam(
        classifier, spatial_blocks(classifier.backbone), make_batch(2, size=32).images, torch.tensor([0, 1])
    )
    assert bool(found.weights.any())


def test_the_channels_that_vary_most():
    maps = torch.zeros(2, 4, 3, 3)
    maps[0, 2], maps[1, 0, 1, 1], maps[:, 3] = 5.0, 1.0, 100.0
    assert strongest(maps, 2).tolist() == [2, 0]


def test_principal_components_are_colours_that_mean_the_same_everywhere():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 8, 4, 4, generator=generator)
    found = principal(maps)
    assert found.shape == (3, 4, 4, 3)
    assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0
    # The same places in another order have the same colours; of two channels the third colour stays dark.
    torch.testing.assert_close(principal(maps.flip(0, 3)), found.flip(0, 2), atol=1e-5, rtol=0)
    assert float(principal(maps[:, :2])[..., 2].abs().max()) == 0.0
    # The first component is the direction of most variance.
    maps[:, 5] *= 30.0
    spread = torch.corrcoef(torch.stack([principal(maps)[..., 0].flatten(), maps[:, 5].flatten()]))[0, 1]
    assert float(spread) > 0.95


def test_nearest_neighbours_by_cosine():
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    cosines, positions = nearest(features, torch.tensor([[0.0, 1.0], [5.0, 0.1]]), 2)
    assert positions.tolist() == [[1, 2], [0, 2]]
    assert cosines[0].tolist() == pytest.approx([1.0, 0.5**0.5], abs=1e-6)
    # No more than there are.
    assert nearest(features, features[:1], 10)[1].shape == (1, 3)
