"""`torchvision:NAME`: small files in the real forms, read by torchvision itself."""

import hashlib
import pickle
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from PIL import Image
from torchvision.datasets import utils

from ssl_transfer.data import sources
from ssl_transfer.data.sources import torchvision_sets
from ssl_transfer.engine.errors import InputError

Load = Callable[..., sources.Dataset]


@pytest.fixture
def config(tmp_path: Path) -> sources.LoadingConfig:
    return sources.LoadingConfig(cache=tmp_path / "cache", downloads=tmp_path / "data", near_duplicates="free")


@pytest.fixture
def load(config: sources.LoadingConfig) -> Load:
    def load(name: str, image_size: int = 8) -> sources.Dataset:
        return sources.load(f"torchvision:{name}", image_size=image_size, config=config)

    return load


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_image(file: Path, seed: int) -> np.ndarray:
    """A picture of one colour, (12, 12, 3)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((12, 12, 3), np.random.default_rng(seed).integers(0, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()  # noqa: S324  (torchvision's check)


def sizes(dataset: sources.Dataset) -> dict[str, int]:
    return {name: len(index) for name, index in dataset.splits.items()}


def test_cifar_pickles(root: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    files = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    images = noise(6, 20, 3, 32, 32)
    for file, batch in zip(files, images, strict=True):
        content = {"data": batch.reshape(20, -1), "labels": [index % 10 for index in range(20)]}
        (folder / file).write_bytes(pickle.dumps(content))
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": classes}))
    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [[file, md5(folder / file)] for file in files[:5]])
    monkeypatch.setattr(cifar, "test_list", [[files[5], md5(folder / files[5])]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": md5(folder / "batches.meta")})
    dataset = load("cifar10", image_size=32)
    assert dataset.classes == tuple(classes)
    assert sizes(dataset) == {"unlabeled": 0, "train": 80, "validation": 20, "test": 20}
    stored = dataset.pixels[torch.arange(120)]
    assert np.array_equal(stored.numpy(), images.reshape(-1, 3, 32, 32))
    assert dataset.labels[:12].tolist() == [*range(10), 0, 1]
    assert dataset.splits["test"].tolist() == list(range(100, 120))


def test_idx_files(root: Path, load: Load) -> None:
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images = noise(50, 28, 28)
    for name, part in (("train", slice(0, 40)), ("t10k", slice(40, 50))):
        count = part.stop - part.start
        head = bytes([0, 0, 8, 3]) + np.array([count, 28, 28], ">i4").tobytes()
        (folder / f"{name}-images-idx3-ubyte").write_bytes(head + images[part].tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        head = bytes([0, 0, 8, 1]) + np.array([count], ">i4").tobytes()
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    dataset = load("FashionMNIST")
    assert dataset.num_channels == 1
    assert dataset.classes[9] == "Ankle boot"
    assert sizes(dataset)["test"] == 10
    assert dataset.labels[40:].tolist() == list(range(10))


def test_stl10_has_an_unlabeled_part(root: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    counts = {"train": 30, "test": 10, "unlabeled": 5}
    images = {name: noise(count, 3, 96, 96, seed=count) for name, count in counts.items()}
    for name, pixels in images.items():
        # Column by column, as the authors' Matlab wrote them.
        (folder / f"{name}_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
    for name in ("train", "test"):
        (folder / f"{name}_y.bin").write_bytes(bytes(1 + index % 10 for index in range(len(images[name]))))
    (folder / "class_names.txt").write_text("\n".join("abcdefghij") + "\n")
    stl = torchvision.datasets.STL10
    for kind in ("train_list", "test_list"):
        monkeypatch.setattr(stl, kind, [[file, md5(folder / file)] for file, _ in getattr(stl, kind)])
    listing = torchvision_sets.read("STL10", sources.LoadingConfig(downloads=root))
    assert np.array_equal(listing.items[30], images["test"][0].transpose(1, 2, 0))
    dataset = load("STL10")
    assert sizes(dataset) == {"unlabeled": 5, "train": 20, "validation": 10, "test": 10}
    assert dataset.labels[dataset.splits["unlabeled"]].tolist() == [-1] * 5
    assert dataset.classes == tuple("abcdefghij")


def test_svhn_mat_files(root: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(40, 32, 32, 3)
    files = {}
    for name, part in (("train", slice(0, 30)), ("test", slice(30, 40))):
        file = root / f"{name}_32x32.mat"
        # The digit 0 is written as 10.
        labels = np.array([[index % 10 or 10] for index in range(part.stop - part.start)], np.uint8)
        scipy.io.savemat(file, {"X": images[part].transpose(1, 2, 3, 0), "y": labels})
        files[name] = ["", file.name, md5(file)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)
    dataset = load("SVHN")
    assert dataset.classes == tuple("0123456789")
    assert dataset.labels[30:].tolist() == list(range(10))
    listing = torchvision_sets.read("SVHN", sources.LoadingConfig(downloads=root))
    assert np.array_equal(listing.items[35], images[35])


def test_eurosat_is_divided_by_seed(root: Path, load: Load) -> None:
    colours = {}
    for number, name in enumerate(("Forest", "River")):
        for index in range(8):
            file = root / "eurosat" / "2750" / name / f"{name}_{index}.png"
            colours[file.relative_to(root).as_posix()] = save_image(file, 10 * number + index)[0, 0]
    dataset = load("EuroSAT")
    assert dataset.classes == ("Forest", "River")
    assert sizes(dataset) == {"unlabeled": 0, "train": 10, "validation": 2, "test": 4}
    for index, name in enumerate(dataset.names):
        assert dataset.pixels[torch.tensor([index])][0, :, 4, 4].tolist() == colours[str(name)].tolist()


def test_pets_and_textures_keep_their_official_parts(root: Path, load: Load) -> None:
    pets = root / "oxford-iiit-pet"
    (pets / "annotations").mkdir(parents=True)
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for label, name in enumerate(("Abyssinian", "american_bulldog"), start=1):
        for index in range(6):
            save_image(pets / "images" / f"{name}_{index}.jpg", 100 * label + index)
            lines["trainval" if index < 4 else "test"].append(f"{name}_{index} {label} 1 1")
    for part, found in lines.items():
        (pets / "annotations" / f"{part}.txt").write_text("\n".join(found) + "\n")
    dataset = load("OxfordIIITPet")
    assert dataset.classes == ("Abyssinian", "American Bulldog")
    assert sizes(dataset) == {"unlabeled": 0, "train": 6, "validation": 2, "test": 4}

    textures = root / "dtd" / "dtd"
    for number, part in enumerate(("train", "val", "test")):
        names = [f"{name}/{name}_{part}_{index}.jpg" for name in ("banded", "dotted") for index in range(3)]
        for seed, name in enumerate(names):
            save_image(textures / "images" / name, 300 + 10 * number + seed)
        (textures / "labels").mkdir(exist_ok=True)
        (textures / "labels" / f"{part}1.txt").write_text("\n".join(names) + "\n")
    dataset = load("DTD")
    assert dataset.classes == ("banded", "dotted")
    assert sizes(dataset) == {"unlabeled": 0, "train": 6, "validation": 6, "test": 6}
    assert str(dataset.names[0]) == "dtd/dtd/images/banded/banded_train_0.jpg"
    (textures / "images" / "banded" / "banded_train_0.jpg").unlink()
    with pytest.raises(InputError, match=r"banded_train_0.jpg.*--loading.max-unreadable"):
        load("DTD")


def test_caltech_paths_and_signs_names(root: Path) -> None:
    for name in ("BACKGROUND_Google", "Faces", "ant"):
        for index in (1, 2):
            save_image(root / "caltech101" / "101_ObjectCategories" / name / f"image_{index:04d}.jpg", index)
    listing = torchvision_sets.read("caltech101", sources.LoadingConfig(downloads=root))
    assert listing.classes == ("Faces", "ant")
    assert all(listing.items[index].is_file() for index in range(4))
    for index, name in enumerate(("001.ak47", "002.flag")):
        save_image(root / "caltech256" / "256_ObjectCategories" / name / f"{index + 1:03d}_0001.jpg", index)
    listing = torchvision_sets.read("Caltech256", sources.LoadingConfig(downloads=root))
    assert [listing.items[index].name for index in range(2)] == ["001_0001.jpg", "002_0001.jpg"]

    signs = root / "gtsrb"
    for label in range(43):
        save_image(signs / "GTSRB" / "Training" / f"{label:05d}" / "00000_00000.ppm", label)
    for label in (0, 42):
        save_image(signs / "GTSRB" / "Final_Test" / "Images" / f"{label:05d}.ppm", label + 100)
    (signs / "GT-final_test.csv").write_text("Filename;Width;ClassId\n00000.ppm;12;0\n00042.ppm;12;42\n")
    listing = torchvision_sets.read("GTSRB", sources.LoadingConfig(downloads=root))
    assert listing.labels[-2:].tolist() == [0, 42]
    assert len(listing.classes) == 43
    expected = {0: "speed limit 20", 14: "stop", 38: "keep right", 42: "end of no passing of lorries"}
    assert {label: listing.classes[label] for label in expected} == expected


def test_every_entry_is_one_of_torchvisions() -> None:
    assert len(torchvision_sets.SETS) == 22
    for name in torchvision_sets.SETS:
        assert issubclass(getattr(torchvision.datasets, name), torch.utils.data.Dataset)


def test_unknown_names(load: Load) -> None:
    for name, reason in (("EuroSatt", r"CIFAR100.*Did you mean eurosat"), ("CelebA", "one label an image")):
        with pytest.raises(InputError, match=reason):
            load(name)


@pytest.mark.parametrize("name", sorted(torchvision_sets.SETS))
def test_what_is_not_there_is_not_fetched(name: str, load: Load, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(InputError, match=rf"torchvision:{name}: not whole in .*data .*--loading.download"):
        load(name)


def test_a_failed_download_is_the_users_to_mend(
    root: Path, config: sources.LoadingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utils, "_urlretrieve", Mock(side_effect=urllib.error.URLError("no network")))
    for name in ("EuroSAT", "USPS", "StanfordCars"):
        with pytest.raises(InputError, match="could not be fetched into"):
            sources.load(f"torchvision:{name}", image_size=8, config=replace(config, download=True))


def test_the_key_follows_the_content(root: Path) -> None:
    def key() -> str:
        config = sources.LoadingConfig(downloads=root, cache=root / "cache")
        return torchvision_sets.read("EuroSAT", config).key(config)

    for name in ("Forest", "River"):
        save_image(root / "eurosat" / "2750" / name / "0.png", 0)
    before = key()
    assert key() == before
    save_image(root / "eurosat" / "2750" / "Forest" / "1.png", 1)
    assert key() != before
