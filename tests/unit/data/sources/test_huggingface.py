"""`hf:REPO`: folders in the forms that the library writes and reads, and what it fetched before; nothing is fetched."""

import importlib.util
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from ssl_transfer.data import sources
from ssl_transfer.data.sources import huggingface
from ssl_transfer.engine.errors import InputError

CLASSES = ["cat", "dog"]
Load = Callable[..., sources.Dataset]


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library's own folder, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    datasets.disable_progress_bars()
    return tmp_path / "library"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(rest: str | Path, **settings: Any) -> sources.Dataset:
        config = sources.LoadingConfig(cache=tmp_path / "cache", near_duplicates="free", **settings)
        return sources.load(f"hf:{rest}", image_size=8, config=config)

    return load


def picture(value: int) -> np.ndarray:
    return np.random.default_rng(value).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def rows(values: range, features: dict[str, Any] | None = None, **columns: list[Any]) -> datasets.Dataset:
    """Images embedded as PNG under `image`, and the columns."""
    encoded = []
    for value in values:
        buffer = io.BytesIO()
        Image.fromarray(picture(value)).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": f"site{value % 3}_{value}.png"})
    kinds = {"image": datasets.Image(), **(features or {"label": datasets.ClassLabel(names=CLASSES)})}
    columns = columns or {"label": [value % 2 for value in values]}
    return datasets.Dataset.from_dict({"image": encoded, **columns}, features=datasets.Features(kinds))


def parquet(folder: Path, **splits: datasets.Dataset) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        split.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


def pixels(dataset: sources.Dataset) -> np.ndarray:
    return dataset.pixels[torch.arange(len(dataset.pixels))].numpy().transpose(0, 2, 3, 1)


def sizes(dataset: sources.Dataset) -> dict[str, int]:
    return {name: len(index) for name, index in dataset.splits.items() if len(index)}


def test_a_folder_of_images(tmp_path: Path, load: Load) -> None:
    for part, values in (("train", range(8)), ("validation", range(8, 12)), ("test", range(12, 16))):
        for value in values:
            file = tmp_path / "data" / part / CLASSES[value % 2] / f"{value:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(value)).save(file)
    dataset = load(tmp_path / "data")
    assert dataset.classes == tuple(CLASSES)
    assert sizes(dataset) == {"train": 8, "validation": 4, "test": 4}
    for stored, name, label in zip(pixels(dataset), dataset.names, dataset.labels.tolist(), strict=True):
        assert np.array_equal(stored, picture(int(name[-6:-4])))
        assert CLASSES[label] in name
    assert str(dataset.names[0]) == "train[0] train/cat/00.png"


def test_parquet_with_embedded_images(tmp_path: Path, load: Load) -> None:
    folder = parquet(tmp_path / "data", train=rows(range(20)), test=rows(range(20, 24)))
    dataset = load(folder)
    assert dataset.classes == tuple(CLASSES)
    assert sizes(dataset) == {"train": 16, "validation": 4, "test": 4}
    assert np.array_equal(pixels(dataset), np.stack([picture(value) for value in range(24)]))
    assert dataset.labels.tolist() == [value % 2 for value in range(24)]


def test_the_key_follows_the_content(tmp_path: Path) -> None:
    def key() -> str:
        config = sources.LoadingConfig(cache=tmp_path / "cache")
        return huggingface.read(str(tmp_path / "data"), config).key(config)

    parquet(tmp_path / "data", train=rows(range(4)))
    before = key()
    assert key() == before
    parquet(tmp_path / "data", train=rows(range(4, 8)))
    assert key() != before


def test_what_save_to_disk_wrote(tmp_path: Path, load: Load) -> None:
    datasets.DatasetDict(train=rows(range(20)), test=rows(range(20, 24))).save_to_disk(tmp_path / "many")
    assert sizes(load(tmp_path / "many")) == {"train": 16, "validation": 4, "test": 4}
    rows(range(20)).save_to_disk(tmp_path / "one")
    assert sizes(load(tmp_path / "one")) == {"train": 14, "validation": 2, "test": 4}


def test_texts_and_numbers_as_labels(tmp_path: Path, load: Load) -> None:
    texts = rows(range(20), {"class": datasets.Value("string")}, **{"class": ["b", "a"] * 10})
    dataset = load(parquet(tmp_path / "texts", train=texts))
    assert dataset.classes == ("a", "b")
    assert dataset.labels[:2].tolist() == [1, 0]
    numbers = rows(range(20), {"target": datasets.Value("int64")}, target=[10, 9] * 10)
    assert load(parquet(tmp_path / "numbers", train=numbers)).classes == ("9", "10")
    other = rows(range(20), {"species": datasets.Value("string")}, species=["b", "a"] * 10)
    folder = parquet(tmp_path / "other", train=other)
    assert sizes(load(folder)) == {"unlabeled": 20}
    assert load(f"{folder},label=species").classes == ("a", "b")


def test_several_columns_are_the_users_to_choose(tmp_path: Path, load: Load) -> None:
    kinds = {
        "mask": datasets.Image(),
        "fine": datasets.ClassLabel(names=["a", "b", "c"]),
        "coarse": datasets.ClassLabel(names=CLASSES),
    }
    found = rows(range(18))["image"]
    table = rows(range(18), kinds, mask=list(found), fine=[0, 1, 2] * 6, coarse=[0, 1] * 9)
    folder = parquet(tmp_path / "data", train=table)
    with pytest.raises(InputError, match=r"image columns image, mask. Choose one, as in .*,image=image"):
        load(folder)
    with pytest.raises(InputError, match=r"label columns fine, coarse. Choose one, as in .*,image=mask,label=fine"):
        load(f"{folder},image=mask")
    assert load(f"{folder},image=image,label=coarse").classes == tuple(CLASSES)
    for wrong, reason in (
        ("image=picture", "image columns"),
        ("image=mask,label=kind", "columns image, fine, coarse"),
        ("image=mask,image=mask", "each once"),
        ("lable=fine", "Did you mean label"),
        ("image=mask,label=image", "one label an image"),
    ):
        with pytest.raises(InputError, match=reason):
            load(f"{folder},{wrong}")


def test_splits_by_other_names(tmp_path: Path, load: Load) -> None:
    folder = parquet(tmp_path / "data", full=rows(range(20)), held=rows(range(20, 24)))
    with pytest.raises(InputError, match=r"splits full, held, and what 'full' is for is not clear"):
        load(folder)
    assert sizes(load(f"{folder},train=full,test=held")) == {"train": 16, "validation": 4, "test": 4}
    assert sizes(load(f"{folder},unlabeled=full")) == {"unlabeled": 20}
    with pytest.raises(InputError, match=r"test=hold, but it has the splits full, held. Did you mean held"):
        load(f"{folder},train=full,test=hold")


def test_hidden_labels(tmp_path: Path, load: Load) -> None:
    hidden = rows(range(20, 24), label=[-1] * 4)
    folder = parquet(tmp_path / "data", train=rows(range(20), label=[-1, -1] + [0, 1] * 9), test=hidden)
    with pytest.raises(InputError, match=r"4 of 4 images of the split 'test' have no label.*,train=train"):
        load(folder)
    assert sizes(load(f"{folder},train=train")) == {"unlabeled": 2, "train": 12, "validation": 2, "test": 4}


def test_groups_by_a_column_and_by_a_name(tmp_path: Path, load: Load) -> None:
    kinds = {"label": datasets.ClassLabel(names=CLASSES), "patient": datasets.Value("int32")}
    patients = [value // 4 for value in range(40)]
    table = rows(range(40), kinds, label=[value % 2 for value in range(40)], patient=patients)
    folder = parquet(tmp_path / "data", train=table)
    dataset = load(folder, group_by="patient")
    sides = [{patients[index] for index in split.tolist()} for split in dataset.splits.values()]
    assert sum(len(side) for side in sides) == 10
    dataset = load(folder, group_by="(site[0-9])")
    sides = [{index % 3 for index in split.tolist()} for split in dataset.splits.values()]
    assert sum(len(side) for side in sides) == 3


def test_a_missing_image_is_named(tmp_path: Path, load: Load) -> None:
    table = rows(range(20))
    features = table.features
    missing = datasets.Dataset.from_dict({"image": [None], "label": [0]}, features=features)
    folder = parquet(tmp_path / "data", train=datasets.concatenate_datasets([table, missing]))
    with pytest.raises(InputError, match=r"train\[20\]"):
        load(folder)
    assert len(load(folder, max_unreadable=0.1).pixels) == 20


def test_nothing_is_fetched_unasked_and_what_was_fetched_is_found(tmp_path: Path, library: Path, load: Load) -> None:
    offline = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(InputError, match=r"neither a folder here nor in .*library.*--loading.download"):
        load("owner/animals")
    load(parquet(tmp_path / "data", train=rows(range(20)), test=rows(range(20, 24))))
    # Where the library puts what it fetches of the hub.
    shutil.copytree(library / "data", library / "owner___animals")
    for file in library.glob("owner___animals/**/data-*.arrow"):
        file.rename(file.with_name(file.name.replace("data-", "animals-")))
    assert sizes(load("owner/animals")) == {"train": 16, "validation": 4, "test": 4}
    assert datasets.config.HF_HUB_OFFLINE is offline


def test_a_failed_download_is_the_users_to_mend(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        assert not datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface, "check_hub", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"could not be fetched \(ConnectionError: no network\)"):
        load("owner/animals", download=True)


def test_what_is_no_data_set(tmp_path: Path, load: Load) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "empty")
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "texts.parquet")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts.parquet").rename(tmp_path / "texts" / "train.parquet")
    with pytest.raises(InputError, match="no image column among text"):
        load(tmp_path / "texts")


def test_without_the_library(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs datasets.*ssl_transfer\[hf\]"):
        load("owner/animals")


def test_a_download_that_is_allowed_asks_the_hub(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def note(*_: Any, **__: Any) -> None:
        seen.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError

    monkeypatch.setattr(huggingface, "check_hub", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", note)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for download in (True, False):
        with pytest.raises(InputError):
            load("owner/animals", download=download)
    assert seen == [False, True]
