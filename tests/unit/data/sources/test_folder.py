from pathlib import Path

import pytest
import torch

from ssl_transfer.data import sources
from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine.errors import InputError

SIZE = 14


def names(dataset: Dataset, split: str) -> set[str]:
    return {dataset.names[index] for index in dataset.splits[split].tolist()}


def test_a_folder_with_all_its_parts(load, root, paint, paint_classes):
    paint_classes(root / "train", 3, blue=1)
    paint_classes(root / "val", 2, blue=2)
    paint_classes(root / "test", 1, blue=3)
    for index in range(4):
        paint(root / "unlabeled" / "deep" / f"{index}.jpg", (index, 9, 9))
    data = load()
    assert {name: len(index) for name, index in data.splits.items()} == {
        "unlabeled": 4,
        "train": 6,
        "validation": 4,
        "test": 2,
    }
    assert data.classes == ("ant", "bee")
    for split, folder in (("train", "train"), ("validation", "val"), ("test", "test"), ("unlabeled", "unlabeled")):
        assert all(name.startswith(f"{folder}/") for name in names(data, split))
    for index, name in enumerate(data.names):
        expected = -1 if "unlabeled" in name else ("ant", "bee").index(Path(name).parent.name)
        assert int(data.labels[index]) == expected
    assert data.pixels.shape == (16, 3, 16, 16)
    assert data.pixels.dtype == torch.uint8


@pytest.mark.parametrize("layout", ["train", ""])
def test_the_pool_never_holds_validation_or_test(load, root, layout, paint, paint_classes):
    paint_classes(root / layout, 20)
    if layout:
        paint(root / "unlabeled" / "one.png")
    data = load()
    splits = {name: set(index.tolist()) for name, index in data.splits.items()}
    assert set(data.pool.tolist()) == splits["unlabeled"] | splits["train"]
    assert not set(data.pool.tolist()) & (splits["validation"] | splits["test"])
    assert not splits["validation"] & splits["test"]
    assert sum(len(part) for part in splits.values()) == len(data.pixels)
    assert {name: len(part) for name, part in splits.items()} == {
        "unlabeled": len(data.pixels) - 40,
        "train": 26,
        "validation": 4,
        "test": 10,
    }


def test_given_parts_are_kept_and_missing_ones_filled(load, root, paint_classes):
    paint_classes(root / "train", 10)
    paint_classes(root / "test", 3, blue=99)
    data = load()
    assert names(data, "test") == {f"test/{name}/{index}.png" for name in ("ant", "bee") for index in range(3)}
    assert len(data.splits["validation"]) == 4
    assert all(name.startswith("train/") for name in names(data, "validation"))


def test_unlabelled_images_alone_are_a_data_set(load, root, paint):
    for index in range(3):
        paint(root / "unlabeled" / f"{index}.png", (index, 0, 0))
    data = load()
    assert len(data.pool) == 3
    assert data.classes == ()


def test_a_misspelt_part_is_not_left_out_in_silence(load, root, paint, paint_classes):
    paint_classes(root / "train", 4)
    paint(root / "unlabelled" / "0.png", (1, 2, 3))
    with pytest.raises(InputError, match=r"unlabelled/ holds images .* Did you mean unlabeled"):
        load()


def test_hidden_files_and_other_files_are_left_out(load, root, paint, paint_classes):
    paint_classes(root, 4)
    paint(root / "ant" / ".hidden.png")
    paint(root / ".thumbnails" / "ant" / "0.png")
    (root / "ant" / "notes.txt").write_text("hello")
    assert len(load().pixels) == 8


def test_missing_and_empty_folders(load, root):
    with pytest.raises(InputError, match="no such folder"):
        load()
    root.mkdir()
    with pytest.raises(InputError, match=r"no images there.*\.png"):
        load()


def test_one_class_is_not_enough(load, root, paint_classes):
    paint_classes(root, 4, classes=("ant",))
    with pytest.raises(InputError, match="only one class, 'ant'"):
        load()


def test_an_image_outside_a_class_is_named(load, root, paint, paint_classes):
    paint_classes(root / "train", 4)
    paint(root / "train" / "stray.png")
    with pytest.raises(InputError, match=r"stray\.png: an image outside a class folder"):
        load()


def test_classes_that_train_has_not_are_named(load, root, paint_classes):
    paint_classes(root / "train", 4)
    paint_classes(root / "test", 2, classes=("ant", "wasp"))
    with pytest.raises(InputError, match="test has classes that train has not: wasp"):
        load()


def test_unknown_sources(tmp_path):
    config = LoadingConfig(cache=tmp_path)
    with pytest.raises(InputError, match="Did you mean digits"):
        sources.load("digit", image_size=16, config=config)
    with pytest.raises(InputError, match=f"folder:{tmp_path}"):
        sources.load(str(tmp_path), image_size=16, config=config)
    with pytest.raises(InputError, match="needs more, as in folder:PATH"):
        sources.load("folder:", image_size=16, config=config)
    with pytest.raises(InputError, match="at least 8"):
        sources.load("digits", image_size=4, config=config)


def test_the_fingerprint_does_not_tell_where_the_folder_lies(load, root, tmp_path, paint_classes):
    paint_classes(root, 4)
    first = load()
    root.rename(tmp_path / "elsewhere")
    config = LoadingConfig(cache=tmp_path / "cache")
    assert (
        sources.load(f"folder:{tmp_path / 'elsewhere'}", image_size=SIZE, config=config).fingerprint
        == first.fingerprint
    )
