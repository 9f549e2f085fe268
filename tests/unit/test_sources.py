import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_transfer.data import cache, sources
from ssl_transfer.data.sources import Dataset, LoadingConfig
from ssl_transfer.engine.errors import InputError

SIZE = 14
"""Stored with the margin for crops: 16 px a side."""


def paint(path: Path, colour=(200, 100, 50), *, mode: str = "RGB", size=(16, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour)
    image.convert(mode).save(path)
    return path


def paint_classes(root: Path, count: int, *, classes=("ant", "bee")) -> None:
    for number, name in enumerate(classes):
        for index in range(count):
            paint(root / name / f"{index}.png", (10 * index, 100 * number, 50))


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def load(tmp_path, root):
    """`load(**settings)`: the folder `root` as a data set, its cache beside it."""

    def call(**settings) -> Dataset:
        config = LoadingConfig(cache=tmp_path / "cache", **settings)
        return sources.load(f"folder:{root}", image_size=SIZE, config=config)

    return call


def names(dataset: Dataset, split: str) -> set[str]:
    return {dataset.names[index] for index in dataset.splits[split].tolist()}


def test_a_folder_with_all_its_parts(load, root):
    paint_classes(root / "train", 3)
    paint_classes(root / "val", 2)
    paint_classes(root / "test", 1)
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
def test_the_pool_never_holds_validation_or_test(load, root, layout):
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


def test_given_parts_are_kept_and_missing_ones_filled(load, root):
    paint_classes(root / "train", 10)
    paint_classes(root / "test", 3)
    data = load()
    assert names(data, "test") == {f"test/{name}/{index}.png" for name in ("ant", "bee") for index in range(3)}
    assert len(data.splits["validation"]) == 4
    assert all(name.startswith("train/") for name in names(data, "validation"))


def test_unlabelled_images_alone_are_a_data_set(load, root):
    for index in range(3):
        paint(root / "unlabeled" / f"{index}.png", (index, 0, 0))
    data = load()
    assert len(data.pool) == 3
    assert data.classes == ()


def test_a_misspelt_part_is_not_left_out_in_silence(load, root):
    paint_classes(root / "train", 4)
    paint(root / "unlabelled" / "0.png", (1, 2, 3))
    with pytest.raises(InputError, match=r"unlabelled/ holds images .* Did you mean unlabeled"):
        load()


def test_hidden_files_and_other_files_are_left_out(load, root):
    paint_classes(root, 4)
    paint(root / "ant" / ".hidden.png")
    paint(root / ".thumbnails" / "ant" / "0.png")
    (root / "ant" / "notes.txt").write_text("hello")
    assert len(load().pixels) == 8


def test_grey_files_give_one_channel_and_a_mixture_three(load, root):
    for name in ("ant", "bee"):
        for index in range(4):
            paint(root / name / f"{index}.png", (index, 90, 20), mode="L")
    assert load().num_channels == 1
    paint(root / "ant" / "colour.png", (250, 20, 20))
    data = load()
    assert data.num_channels == 3
    grey = data.pixels[next(index for index, name in enumerate(data.names) if name.endswith("bee/1.png"))]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "LA", "1"])
def test_modes_of_eight_bits(load, root, mode):
    paint_classes(root, 4)
    suffix = "tif" if mode == "CMYK" else "png"
    paint(root / "ant" / f"other.{suffix}", (255, 255, 255), mode=mode)
    data = load()
    assert data.num_channels == 3
    other = data.pixels[next(index for index, name in enumerate(data.names) if "other" in name)]
    assert int(other.min()) >= 250


def test_the_colours_and_the_middle_square_are_kept(load, root):
    paint_classes(root, 4)
    wide = np.zeros((16, 48, 3), dtype=np.uint8)
    wide[:, 16:32] = (200, 100, 50)
    Image.fromarray(wide).save(root / "ant" / "wide.png")
    data = load()
    found = data.pixels[next(index for index, name in enumerate(data.names) if "wide" in name)]
    assert found[:, 8, 8].tolist() == [200, 100, 50]
    assert (found.float() - torch.tensor([200.0, 100.0, 50.0])[:, None, None]).abs()[:, :, 2:-2].max() < 8


def test_exif_rotation_is_respected(load, root):
    paint_classes(root, 4)
    upright = np.zeros((16, 16, 3), dtype=np.uint8)
    upright[:8] = 255
    exif = Image.Exif()
    # Orientation 6: turned a quarter clockwise, the stored pixels are upright again.
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright).copy()).save(root / "ant" / "turned.png", exif=exif)
    data = load()
    found = data.pixels[next(index for index, name in enumerate(data.names) if "turned" in name)]
    assert int(found[:, :6].min()) > 240
    assert int(found[:, 10:].max()) < 15


def test_unreadable_images_are_named_counted_and_left_out(load, root, capsys):
    paint_classes(root, 10)
    (root / "ant" / "broken.png").write_bytes(b"not an image")
    whole = paint(root / "bee" / "short.jpg", size=(64, 64)).read_bytes()
    (root / "bee" / "short.jpg").write_bytes(whole[: len(whole) // 3])
    data = load(max_unreadable=0.1)
    said = capsys.readouterr().out
    assert "2 of 22 images cannot be read" in said
    assert "broken.png" in said
    assert "short.jpg" in said
    assert len(data.pixels) == len(data.names) == len(data.labels) == 20
    assert not any("broken" in name or "short" in name for name in data.names)
    # What is left keeps its own pixels and labels.
    for index, name in enumerate(data.names):
        assert int(data.pixels[index, 0, 8, 8]) == 10 * int(Path(name).stem)
        assert data.classes[int(data.labels[index])] == Path(name).parent.name


def test_too_many_unreadable_images_are_an_error(load, root):
    paint_classes(root, 10)
    (root / "ant" / "broken.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"(?s)1 of 21 images.*broken\.png.*max-unreadable 0\.01"):
        load()


def test_nothing_but_unreadable_images_is_an_error(load, root):
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        (root / name / "broken.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match="2 of 2 images"):
        load(max_unreadable=0.9)


def write_png_of_16_bits(path: Path, colour_type: int, channels: int) -> None:
    rows = b"".join(b"\0" + np.full(16 * channels, 20000, dtype=">u2").tobytes() for _ in range(16))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 16, 16, 16, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("kind", ["grey png", "colour png", "grey tiff", "float tiff"])
def test_images_of_more_than_8_bits_are_refused_by_name(load, root, kind):
    paint_classes(root, 4)
    path = root / "ant" / f"deep.{kind.split()[1].replace('tiff', 'tif')}"
    if kind.endswith("png"):
        write_png_of_16_bits(path, *((0, 1) if kind.startswith("grey") else (2, 3)))
    else:
        values = np.full((16, 16), 20000)
        Image.fromarray(values.astype(np.float32 if kind.startswith("float") else np.uint16)).save(path)
    with pytest.raises(InputError, match=r"1 images have more than 8 bits.*deep\."):
        load()


def test_a_second_load_decodes_nothing(load, root, monkeypatch):
    paint_classes(root, 4)
    first = load()

    def refuse(*arguments):
        raise AssertionError("decoded again")

    monkeypatch.setattr(cache, "_square", refuse)
    monkeypatch.setattr(cache, "_mode", refuse)
    second = load()
    assert torch.equal(first.pixels, second.pixels)
    assert first.fingerprint == second.fingerprint


def test_a_changed_file_is_noticed(load, root):
    paint_classes(root, 4)
    first = load()
    path = paint(root / "ant" / "0.png", (77, 77, 77))
    # The same size and, on a coarse clock, perhaps the same time: the time is moved on for certain.
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    second = load()
    changed = next(index for index, name in enumerate(second.names) if name.endswith("ant/0.png"))
    assert second.pixels[changed].unique().tolist() == [77]
    assert second.fingerprint != first.fingerprint


def test_the_fingerprint_does_not_tell_where_the_folder_lies(load, root, tmp_path):
    paint_classes(root, 4)
    first = load()
    root.rename(tmp_path / "elsewhere")
    config = LoadingConfig(cache=tmp_path / "cache")
    assert (
        sources.load(f"folder:{tmp_path / 'elsewhere'}", image_size=SIZE, config=config).fingerprint
        == first.fingerprint
    )


def test_another_size_is_another_cache(load, root, tmp_path):
    paint_classes(root, 4)
    load()
    config = LoadingConfig(cache=tmp_path / "cache")
    assert sources.load(f"folder:{root}", image_size=28, config=config).pixels.shape[2:] == (32, 32)
    assert load().pixels.shape[2:] == (16, 16)


def test_the_cache_is_mapped_and_writing_does_not_reach_it(load, root):
    paint_classes(root, 4)
    data = load()
    data.pixels[0] = 123
    assert load().pixels[0, 0, 0, 0] != 123


def test_missing_and_empty_folders(load, root):
    with pytest.raises(InputError, match="no such folder"):
        load()
    root.mkdir()
    with pytest.raises(InputError, match=r"no images there.*\.png"):
        load()


def test_one_class_is_not_enough(load, root):
    paint_classes(root, 4, classes=("ant",))
    with pytest.raises(InputError, match="only one class, 'ant'"):
        load()


def test_an_image_outside_a_class_is_named(load, root):
    paint_classes(root / "train", 4)
    paint(root / "train" / "stray.png")
    with pytest.raises(InputError, match=r"stray\.png: an image outside a class folder"):
        load()


def test_classes_that_train_has_not_are_named(load, root):
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
    with pytest.raises(InputError, match="needs a path"):
        sources.load("folder:", image_size=16, config=config)
    with pytest.raises(InputError, match="at least 8"):
        sources.load("digits", image_size=4, config=config)


@pytest.mark.parametrize(
    "settings", [{"test_fraction": 1.0}, {"validation_fraction": 0.0}, {"max_unreadable": -0.1}, {"test_fraction": 0.0}]
)
def test_impossible_shares_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        LoadingConfig(**settings)


def test_statistics_are_those_of_the_pool(make_dataset):
    data = make_dataset()
    mean, deviation = data.statistics()
    values = data.pixels[data.pool].double() / 255.0
    assert torch.allclose(torch.tensor(mean).double(), values.mean(dim=(0, 2, 3)), atol=1e-6)
    assert torch.allclose(torch.tensor(deviation).double(), values.std(dim=(0, 2, 3), correction=0), atol=1e-6)
    other = make_dataset()
    other.pixels[torch.cat([other.splits["validation"], other.splits["test"]])] = 0
    assert other.statistics() == (mean, deviation)


def test_blank_images_are_an_error(make_dataset):
    data = make_dataset(channels=1)
    data.pixels[:] = 7
    with pytest.raises(InputError, match="all of one colour"):
        data.statistics()
