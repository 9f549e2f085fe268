"""Whatever bytes an image file holds, it is read, or counted as unreadable and named: no crash, no hang, no traceback.

The files are images of every format that is read, with bytes changed, cut off, added or exchanged, and bytes that were
never an image. A hundred examples of each test in the suite, two thousand with `--hypothesis-profile long`.
"""

import io
import itertools
import signal
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.sources import load
from ssl_transfer.data.store import decode, image_files, storage_layout
from ssl_transfer.engine.errors import InputError

SECONDS = 20
SIDE = 16


def _saved(image: Image.Image, form: str, **how: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, form, **how)
    return held.getvalue()


def _tiff(values: np.ndarray, **how: Any) -> bytes:
    held = io.BytesIO()
    tifffile.imwrite(held, values, **how)
    return held.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be so large."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _images() -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 256, (20, 24, 4), dtype=np.uint8)
    deep = generator.integers(0, 65536, (20, 24), dtype=np.uint16)
    colour, alpha = Image.fromarray(values[:, :, :3]), Image.fromarray(values)
    grey, palette = colour.convert("L"), colour.convert("P")
    frames = {"save_all": True, "append_images": [colour.rotate(90), colour.rotate(180)]}
    exif = Image.Exif()
    exif[274] = 6
    return {
        "colour.png": _saved(colour, "PNG"),
        "alpha.png": _saved(alpha, "PNG"),
        "palette.png": _saved(palette, "PNG"),
        "bits.png": _saved(grey.convert("1"), "PNG"),
        "deep.png": _saved(Image.fromarray(deep), "PNG"),
        "animated.png": _saved(colour, "PNG", **frames),
        "colour.jpg": _saved(colour, "JPEG"),
        "turned.jpg": _saved(colour, "JPEG", exif=exif),
        "progressive.jpg": _saved(colour, "JPEG", progressive=True),
        "ink.jpg": _saved(colour.convert("CMYK"), "JPEG"),
        "colour.tif": _saved(colour, "TIFF"),
        "packed.tif": _saved(colour, "TIFF", compression="tiff_lzw"),
        "deep.tif": _tiff(deep),
        "bands.tif": _tiff(generator.random((20, 24, 5), dtype=np.float32), photometric="minisblack"),
        "pages.tif": _tiff(generator.integers(0, 256, (3, 20, 24), dtype=np.uint8), photometric="minisblack"),
        "frames.gif": _saved(palette, "GIF", **frames),
        "colour.webp": _saved(colour, "WEBP"),
        "frames.webp": _saved(colour, "WEBP", **frames),
        "colour.bmp": _saved(colour, "BMP"),
        "colour.ppm": _saved(colour, "PPM"),
        "point.png": _saved(colour.resize((1, 1)), "PNG"),
        "thin.png": _saved(colour.resize((1, 5000)), "PNG"),
        "wide.jpg": _saved(colour.resize((5000, 1)), "JPEG"),
    }


IMAGES = _images()
ABSURD = {
    "empty.png": b"",
    "huge.png": _png_header(2**31 - 1, 2**31 - 1),
    "bomb.png": _png_header(20_000, 20_000),
    "flat.png": _png_header(0, 5),
    "claimed.bmp": IMAGES["colour.bmp"][:18] + struct.pack("<ii", 2**30, 2**30) + IMAGES["colour.bmp"][26:],
    "turned round.bmp": IMAGES["colour.bmp"][:18] + struct.pack("<ii", -24, -(2**31)) + IMAGES["colour.bmp"][26:],
    "claimed.ppm": b"P6 99999 99999 255\n",
    "words.ppm": b"P3 many more 255\n1 2 3",
    "exchanged.png": IMAGES["colour.jpg"],
    "exchanged.jpg": IMAGES["frames.gif"],
    "exchanged.tif": IMAGES["colour.png"],
    "text.jpg": b"<html>not found</html>",
    "script.png": b"#!/bin/sh\nexit 1\n",
}


@st.composite
def damaged(draw: st.DrawFn, originals: dict[str, bytes]) -> tuple[str, bytes]:
    """A name and what is left of an image of that name: flipped bits, cut, lengthened, or with a piece of another."""
    name = draw(st.sampled_from(sorted(originals)))
    content = bytearray(originals[name])
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(("flip", "byte", "cut", "add", "insert", "other", "name"))):
            case "flip" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "byte" if content:
                content[place] = draw(st.sampled_from((0, 1, 127, 128, 255)))
            case "cut":
                del content[place:]
            case "add":
                content += draw(st.binary(max_size=30))
            case "insert":
                content[place:place] = draw(st.binary(max_size=8))
            case "other":
                content[place:] = originals[draw(st.sampled_from(sorted(originals)))][place:]
            case "name":
                name = Path(name).stem + draw(st.sampled_from(sorted(image_files.SUFFIXES)))
    return name, bytes(content)


@pytest.fixture(autouse=True)
def in_time() -> Any:
    """No file takes so long; a hang inside a library is ended by the system."""
    yield
    signal.alarm(0)


COUNTER = itertools.count()


def read(folder: Path, name: str, content: bytes) -> None:
    """Read one file as a data set does: its header, then its pixels in the layout that goes with that."""
    file = folder / f"{next(COUNTER)}{Path(name).suffix}"
    file.write_bytes(content)
    signal.alarm(SECONDS)
    for item in (file, content):
        (header,) = decode.headers_of([item])
        if isinstance(header, str):
            assert header
            continue
        how, _ = storage_layout.agree([header], [name], SIDE, LoadingConfig())
        (answer,) = decode.store_squares([item], how, "", 0)
        assert isinstance(answer, decode.Measured) or answer
        if isinstance(answer, decode.Measured):
            # What is read once is read again, and alike.
            pixels = decode.square(item, how)
            assert pixels.shape == (how.channels, how.side, how.side)
            assert decode.digest(pixels) == answer.digest
    signal.alarm(0)
    file.unlink()


def test_whole_images_are_read() -> None:
    """Read the whole images that the tests below damage."""
    found = {name: decode.headers_of([content])[0] for name, content in IMAGES.items()}
    assert {name: header for name, header in found.items() if isinstance(header, str)} == {}
    assert len(found) == 23


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_files(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(ABSURD[name])
    (header,) = decode.headers_of([file])
    assert isinstance(header, str), header
    assert header


@given(example=damaged(IMAGES | ABSURD))
def test_damaged_images(example: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    read(tmp_path_factory.getbasetemp(), *example)


@given(content=st.binary(max_size=300), name=st.sampled_from(sorted(IMAGES)), whole=st.booleans())
def test_random_bytes(content: bytes, name: str, whole: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing but noise, or noise behind what every file of that format begins with."""
    read(tmp_path_factory.getbasetemp(), name, content if whole else IMAGES[name][:12] + content)


def _arrays() -> bytes:
    generator, held = np.random.default_rng(0), io.BytesIO()
    labels = np.arange(24) % 2
    np.savez(held, x_train=generator.integers(0, 256, (24, 12, 12), dtype=np.uint8), y_train=labels)
    return held.getvalue()


@given(example=damaged({"images.npz": _arrays()}))
def test_damaged_arrays(example: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file of arrays is read, or refused by its name."""
    folder = tmp_path_factory.getbasetemp()
    file = folder / f"{next(COUNTER)}.npz"
    file.write_bytes(example[1])
    refused = ""
    try:
        data = load(f"npz:{file}", image_size=12, config=LoadingConfig(cache=folder / "cache"))
        assert data.pixels[data.pool].shape[1:] == (1, 12, 12)
    except InputError as error:
        refused = str(error)
    assert not refused or str(file) in refused or "image" in refused, refused


def test_a_folder_of_all_that_is_broken(
    run: Callable, flags: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check names each file and the training leaves them out: of folders, links and devices called x.png too."""
    generator = np.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"whole{number}.png")
    left = tmp_path / "images" / "left"
    for name, content in ABSURD.items():
        (left / name).write_bytes(content)
    for name, content in IMAGES.items():
        (left / f"cut {name}").write_bytes(content[:10])
    (left / "folder.png").mkdir()
    (left / "broken link.png").symlink_to("nowhere")
    (left / "link to itself.png").symlink_to("link to itself.png")
    (left / "loop").symlink_to("..")
    (left / "second loop").symlink_to("../right")
    (tmp_path / "images" / "right" / "third loop").symlink_to("../left")
    data = ("--loading.cache", tmp_path / "cache", "--loading.max-unreadable", 0.99)
    assert run("data", "check", f"folder:{tmp_path / 'images'}", "--output", tmp_path / "check", *data) in (0, 1)
    page = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "check").glob("*.html"))
    printed = capsys.readouterr()
    said = printed.out + page
    assert not printed.err, printed.err
    for name in (*ABSURD, *(f"cut {name}" for name in IMAGES)):
        assert name in said, name
    short = ("--image-size", 16, "--epochs", 1, "--batch-size", 8, "--output", tmp_path / "run")
    command = ("pretrain", "simclr", "--data", f"folder:{tmp_path / 'images'}", *data, *short, *flags["convolutional"])
    assert run(*command) == 0
    assert "images cannot be read" in capsys.readouterr().out


def test_a_name_that_is_no_text(run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Latin-1 leaves them on a disk: refused by name, as tables and pages could not hold it."""
    (tmp_path / "images" / "left").mkdir(parents=True)
    (tmp_path / "images" / "left" / "gr\udcfcn.png").write_bytes(IMAGES["colour.png"])
    assert run("data", "check", f"folder:{tmp_path / 'images'}", "--output", tmp_path / "check") == 2
    assert "gr\\xfcn.png' is no text in UTF-8" in capsys.readouterr().err
