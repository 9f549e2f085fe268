import pytest
import torch

from ssl_transfer.engine.io.weight_files import WeightFile
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.models.small_images import smaller_size


def images(size: int) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_a_convolutional_network_takes_any_size(make_backbone):
    backbone = make_backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert smaller_size(backbone, 0.4) == 6
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert backbone.training
    assert backbone.eval()(images(6)).shape == (2, 16)


@pytest.mark.parametrize(("share", "side"), [(0.4, 6), (0.05, 2), (1.0, 16)])
def test_a_vision_transformer_is_made_to_take_whole_patches(make_backbone, tmp_path, share, side):
    backbone = make_backbone("transformer").eval()
    with pytest.raises(AssertionError, match="match model"):
        backbone(images(6))
    before = backbone(images(16))
    assert smaller_size(backbone, share) == side
    assert backbone(images(side)).shape == (2, 16)
    # At its own size, and once it is exported, it is what it was.
    assert torch.equal(backbone(images(16)), before)
    pretrained.export(backbone, tmp_path / "backbone", {})
    again = pretrained.from_export(WeightFile(tmp_path / "backbone", "backbone"))
    assert again.spec == make_backbone("transformer").spec
    assert torch.equal(again.eval()(images(16)), before)


def test_a_position_is_where_it_was_in_the_larger_image(make_backbone):
    """The interpolated embedding: with positions that grow along the rows, those of the small image do so too."""
    backbone = make_backbone("transformer").eval()
    model = backbone.model
    with torch.no_grad():
        grid = torch.linspace(0.0, 1.0, 8).repeat_interleave(8)
        model.pos_embed[0, 1:] = grid[:, None]
        smaller_size(backbone, 0.5)
        empty = torch.zeros(1, 4, 4, 16)
        rows = (model._pos_embed(empty) - model.cls_token.new_zeros(1))[0, 1:, 0].view(4, 4).mean(dim=1)
    assert rows.tolist() == sorted(rows.tolist())
    assert float(rows.max() - rows.min()) > 0.5


def test_a_network_that_takes_one_size_alone_says_so():
    config = BackboneConfig(
        name="swin_tiny_patch4_window7_224",
        stem="standard",
        arguments=("img_size=32", "window_size=4", "embed_dim=8", "depths=(1,1)", "num_heads=(1,1)"),
    )
    spec = backbones.make_spec(config, in_chans=3, image_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert smaller_size(pretrained.scratch(spec, seed=0), 0.5) == 32
