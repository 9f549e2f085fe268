"""Small images on disk, and folders of them as data sets."""

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.data import sources
from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.backbones import Backbone, BackboneConfig

STORED = 16
"""Pixels a side of what `load` stores: the image size 14 with the margin for crops."""


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def paint() -> Callable[..., Path]:
    """`paint(path, colour)` writes an image of one colour."""

    def call(path: Path, colour=(200, 100, 50), *, mode: str = "RGB", size=(16, 16)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).convert(mode).save(path)
        return path

    return call


@pytest.fixture
def paint_classes(paint) -> Callable[..., None]:
    """`paint_classes(root, 4)` writes 4 images of each class, no two the same, numbered by their red."""

    def call(root: Path, count: int, *, classes=("ant", "bee"), blue: int = 50) -> None:
        for number, name in enumerate(classes):
            for index in range(count):
                paint(root / name / f"{index}.png", (10 * index, 100 * number, blue))

    return call


@pytest.fixture
def scatter() -> Callable[..., Path]:
    """`scatter(path, seed)` writes an image of random blocks, unlike every other seed's."""

    def call(path: Path, seed: int, *, side: int = 48) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((side, side), Image.Resampling.BICUBIC).save(path)
        return path

    return call


@pytest.fixture
def load(tmp_path, root):
    """`load(**settings)`: the folder `root` as a data set, its cache beside it."""

    def call(source: str = "", **settings) -> Dataset:
        config = LoadingConfig(**{"cache": tmp_path / "cache", "near_duplicates": "free", **settings})
        return sources.load(source or f"folder:{root}", image_size=14, config=config)

    return call


FAMILIES = {
    "vgg16": (32, ()),
    "resnet18": (32, ()),
    "inception_v3": (96, ()),
    "mobilenetv2_050": (32, ()),
    "mobilenetv3_small_050": (32, ()),
    "efficientnet_b0": (32, ()),
    "densenet121": (32, ("block_config=(2,2,2,3)", "growth_rate=8")),
    "convnext_atto": (32, ("depths=(1,1,1,2)", "dims=(8,16,16,32)")),
    "vit_tiny_patch16_224": (32, ("embed_dim=16", "depth=4", "num_heads=2")),
    "torchvision/vgg16": (32, ()),
    "torchvision/resnet18": (32, ()),
    "torchvision/inception_v3": (96, ()),
    "torchvision/mobilenet_v2": (32, ()),
    "torchvision/mobilenet_v3_small": (32, ()),
    "torchvision/efficientnet_b0": (32, ()),
    "torchvision/densenet121": (32, ()),
    "torchvision/convnext_tiny": (32, ()),
    "torchvision/vit_b_16": (32, ()),
    "simple_cnn": (16, ()),
}
"""Nine families of timm and of torchvision and our own: pixels a side, and what makes them small."""


@cache
def _built(name: str, extra: tuple[str, ...]) -> Backbone:
    size, arguments = FAMILIES[name]
    config = BackboneConfig(name=name, stem="standard", arguments=(*arguments, *extra))
    spec = backbones.make_spec(config, in_chans=3, image_size=size, mean=(0.4,) * 3, std=(0.25,) * 3)
    return pretrained.scratch(spec, seed=0)


@pytest.fixture(params=list(FAMILIES))
def family(request) -> str:
    """The name of a backbone, of each family in turn."""
    return request.param


@pytest.fixture
def make_family() -> Callable[..., Backbone]:
    """`make_family(name)`: a fresh copy of a backbone of a family; further arguments are its constructor's."""

    def call(name: str, *extra: str) -> Backbone:
        return copy.deepcopy(_built(name, extra))

    return call
