"""The picture of what a method paints, and what of a method it shows."""

import copy

import pytest
import torch
from PIL import Image

from ssl_transfer.methods import METHODS
from ssl_transfer.methods.base import Reconstruction
from ssl_transfer.reports import reconstructions
from ssl_transfer.stages.pretrain import monitoring

PAINTERS = [name for name, entry in METHODS.items() if entry.reconstruct is not None]


def test_which_methods_paint():
    assert set(PAINTERS) == {"mae", "autoencoder"}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_columns_of_the_picture(tmp_path, channels):
    images, target = torch.zeros(2, channels, 16, 16), torch.full((2, channels, 16, 16), 1.0)
    found = Reconstruction(seen=target - 0.5, reconstructed=target + 7.0, target=target)
    reconstructions.write(tmp_path / "a.png", "title", ["one", ""], images, found)
    drawn = Image.open(tmp_path / "a.png").convert("L")
    row = [drawn.getpixel((x, drawn.height - 40)) for x in range(drawn.width)]
    # Black, the grey of what is hidden, and white for what is brighter than white.
    assert {0, 128, 255} <= set(row)
    reconstructions.write(tmp_path / "b.png", "title", ["one", ""], images, found._replace(seen=target))
    narrower = Image.open(tmp_path / "b.png").convert("L")
    assert drawn.width - narrower.width > 100


@pytest.mark.parametrize("name", METHODS)
def test_drawing_leaves_the_training_as_it_was(make_backbone, make_dataset, runtime, tmp_path, name):
    entry = METHODS[name]
    backbone = make_backbone("transformer" if entry.backbones == "vit" else "convolutional")
    module = entry.module(backbone, entry.config()).eval()
    before, generator = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    path = tmp_path / "reconstructions.png"
    for _ in range(2):
        monitoring.draw_reconstructions(path, name, entry, module, backbone, make_dataset(), runtime)
    assert path.is_file() == (name in PAINTERS)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in module.parameters())
