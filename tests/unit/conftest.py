"""Small images on disk, and folders of them as data sets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.data import sources
from ssl_transfer.data.dataset import Dataset, LoadingConfig

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
