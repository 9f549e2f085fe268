"""`medmnist:NAME`: a small file in MedMNIST's form, with the library's own table of what there is."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from medmnist import INFO
from torchvision.datasets import utils

from ssl_transfer.data import sources
from ssl_transfer.data.sources import medmnist_sets
from ssl_transfer.engine.errors import InputError

COUNTS = {"train": 18, "val": 9, "test": 9}


@pytest.fixture
def config(tmp_path: Path) -> sources.LoadingConfig:
    return sources.LoadingConfig(cache=tmp_path / "cache", downloads=tmp_path / "data", near_duplicates="free")


def write(folder: Path, name: str = "pathmnist", *, side: int = 28, channels: int = 3, seed: int = 0) -> np.ndarray:
    """The file, and (36, side, side, channels) of all its images; classes 0 to 8 in turn."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (36, side, side, channels), dtype=np.uint8)
    arrays, start = {}, 0
    for part, count in COUNTS.items():
        pixels = images[start : start + count]
        arrays[f"{part}_images"] = pixels if channels > 1 else pixels[..., 0]
        arrays[f"{part}_labels"] = (np.arange(count, dtype=np.uint8) % 9)[:, None]
        start += count
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    return images


@pytest.mark.parametrize(("name", "side"), [("pathmnist", 28), ("pathmnist_28", 28), ("PathMNIST_64", 64)])
def test_pixels_classes_and_official_parts(name: str, side: int, config: sources.LoadingConfig) -> None:
    images = write(config.downloads, "pathmnist_64" if side == 64 else "pathmnist", side=side)
    dataset = sources.load(f"medmnist:{name}", image_size=64, config=config)
    assert np.array_equal(dataset.pixels[torch.arange(36)].numpy(), images.transpose(0, 3, 1, 2))
    assert dataset.classes == tuple(INFO["pathmnist"]["label"].values())
    assert {part: len(index) for part, index in dataset.splits.items()} == {
        "unlabeled": 0,
        "train": 18,
        "validation": 9,
        "test": 9,
    }
    assert dataset.labels[:10].tolist() == [*range(9), 0]


def test_grey_images_and_ordered_grades(config: sources.LoadingConfig) -> None:
    write(config.downloads, "organamnist", channels=1)
    assert sources.load("medmnist:organamnist", image_size=28, config=config).num_channels == 1


def test_what_is_not_read_says_why(config: sources.LoadingConfig) -> None:
    for name, reason in (
        ("chestmnist", "several labels each"),
        ("organmnist3d", "volumes"),
        ("pathmist", "Did you mean pathmnist"),
        ("pathmnist_32", "28 pixels a side, or 64, 128, 224 as in pathmnist_64"),
    ):
        with pytest.raises(InputError, match=reason):
            sources.load(f"medmnist:{name}", image_size=28, config=config)


def test_what_is_not_there_is_not_fetched(config: sources.LoadingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(InputError, match=r"no .*data/pathmnist.npz.*zenodo.*--loading.download"):
        sources.load("medmnist:pathmnist", image_size=28, config=config)


def test_a_download_goes_to_the_folder(
    config: sources.LoadingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "server")
    content = (tmp_path / "server" / "pathmnist.npz").read_bytes()
    asked = []

    def serve(url: str, filename: str | Path, **_: object) -> None:
        asked.append(url)
        Path(filename).write_bytes(content)

    monkeypatch.setattr(utils, "_urlretrieve", serve)
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **_: url)
    config = replace(config, download=True)
    # The checksum is that of the real file.
    with pytest.raises(InputError, match=r"could not be fetched .*corrupted"):
        sources.load("medmnist:pathmnist", image_size=28, config=config)
    assert not (config.downloads / "pathmnist.npz").exists()
    (config.downloads / "pathmnist.partial").unlink()
    monkeypatch.setattr(utils, "check_integrity", lambda file, *_: Path(file).is_file())
    for _ in range(2):
        assert len(sources.load("medmnist:pathmnist", image_size=28, config=config).pixels) == 36
    assert asked == [INFO["pathmnist"]["url"]] * 2


def test_a_broken_file_and_foreign_labels(config: sources.LoadingConfig) -> None:
    write(config.downloads)
    file = config.downloads / "pathmnist.npz"
    with np.load(file) as opened:
        arrays = dict(opened)
    np.savez(file, **{**arrays, "test_labels": arrays["test_labels"] + 3})
    with pytest.raises(InputError, match="expected one each, 0 to 8"):
        medmnist_sets.read("pathmnist", config)
    for content in (b"nothing", file.read_bytes()[:5000]):
        file.write_bytes(content)
        with pytest.raises(InputError, match="not a file of MedMNIST"):
            medmnist_sets.read("pathmnist", config)
    np.savez(file, train_images=arrays["train_images"])
    with pytest.raises(InputError, match="not a file of MedMNIST"):
        medmnist_sets.read("pathmnist", config)


def test_without_the_library(config: sources.LoadingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs medmnist.*ssl_transfer\[medmnist\]"):
        sources.load("medmnist:pathmnist", image_size=28, config=config)
