"""Files as they are: every kind keeps its channels, its depth and its values, or is refused by name."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from ssl_transfer.data.store import image_files
from ssl_transfer.data.store.decode import Layout, measured, square
from ssl_transfer.data.store.image_files import Header, UnreadableError, header

SIDE = 16
RAMP = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 250
"""Values up to 63,750: above what 8 bits, and what a signed 16-bit number, hold."""


def write_deep_png(path: Path, values: np.ndarray, exif: bytes = b"") -> Path:
    """A PNG of 16 bits a channel, which Pillow writes only in grey: (H, W, C) uint16."""
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    shape = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", shape), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    if exif:
        parts.insert(1, chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def kept(path: Path, dtype: str, channels: int) -> np.ndarray:
    """The stored square, which has the size of the file."""
    found = header(path)
    assert (found.dtype, found.channels, found.width, found.height) == (dtype, channels, SIDE, SIDE)
    return square(path, Layout(channels=channels, dtype=found.dtype, side=SIDE, background=None))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_16_bit_png_keeps_its_histogram(tmp_path, channels):
    values = np.stack([np.rot90(RAMP, turns) for turns in range(channels)], axis=2)
    pixels = kept(write_deep_png(tmp_path / "deep.png", values), "uint16", channels)
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels, values.transpose(2, 0, 1))
    assert np.array_equal(np.histogram(pixels, 64, (0, 65536))[0], np.histogram(values, 64, (0, 65536))[0])


def test_a_16_bit_png_that_pillow_writes(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "deep.png")
    assert np.array_equal(kept(tmp_path / "deep.png", "uint16", 1)[0], RAMP)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_deep_tiff_keeps_its_values(tmp_path, dtype, order):
    values = (RAMP.astype(np.float64) / 2 - 5000).astype(dtype) if dtype != "uint16" else RAMP
    tifffile.imwrite(tmp_path / "deep.tif", values, byteorder=order)
    pixels = kept(tmp_path / "deep.tif", dtype, 1)
    assert pixels.dtype == np.dtype(dtype)
    assert np.array_equal(pixels[0], values)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bands", [4, 5, 13])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_band_of_a_tiff_is_kept(tmp_path, bands, planar, dtype):
    values = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, bands)).astype(dtype)
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    options = {"photometric": "minisblack", "planarconfig": planar, "extrasamples": ["unspecified"] * (bands - 1)}
    tifffile.imwrite(tmp_path / "bands.tif", stored, **options)
    assert np.array_equal(kept(tmp_path / "bands.tif", dtype, bands), values.transpose(2, 0, 1))


def test_the_fourth_band_of_an_aerial_photograph_is_not_taken_for_nothing(tmp_path):
    # Red, green, blue and infrared: Pillow would call it RGBX and show three.
    values = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 4)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "aerial.tif", values, photometric="rgb", extrasamples=["unspecified"])
    assert np.array_equal(kept(tmp_path / "aerial.tif", "uint8", 4), values.transpose(2, 0, 1))


def test_pages_of_a_tiff_are_its_bands(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (6, SIDE, SIDE)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "pages.tif", values, photometric="minisblack")
    assert np.array_equal(kept(tmp_path / "pages.tif", "uint8", 6), values)


def test_plain_tiffs_are_pillows(tmp_path):
    for mode, channels in (("L", 1), ("RGB", 3)):
        Image.new(mode, (SIDE, SIDE), 90 if mode == "L" else (90, 80, 70)).save(tmp_path / "plain.tif")
        assert header(tmp_path / "plain.tif") == Header(channels, False, "uint8", SIDE, SIDE)


@pytest.mark.parametrize(
    ("mode", "channels", "alpha"),
    [("1", 1, False), ("L", 1, False), ("LA", 1, True), ("RGB", 3, False), ("RGBA", 3, True), ("P", 3, False)],
)
def test_headers_of_eight_bits(tmp_path, mode, channels, alpha):
    Image.new("RGB", (20, 30), (9, 9, 9)).convert(mode).save(tmp_path / "a.png")
    assert header(tmp_path / "a.png") == Header(channels, alpha, "uint8", 20, 30)


def test_a_quarter_turn_by_exif_exchanges_the_sides(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert (header(tmp_path / "turned.jpg").width, header(tmp_path / "turned.jpg").height) == (30, 20)


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""How a picture is shown that lies so in its file (EXIF 2.32, tag 274)."""


def checked_upright(path: Path, values: np.ndarray, orientation: int) -> None:
    upright = TURNS[orientation](values)
    found = header(path)
    assert (found.height, found.width) == upright.shape[:2]
    side = min(upright.shape[:2])
    expected = upright[(upright.shape[0] - side) // 2 :, (upright.shape[1] - side) // 2 :][:side, :side]
    channels = 1 if values.ndim == 2 else values.shape[2]
    pixels = square(path, Layout(channels=channels, dtype=found.dtype, side=side, background=None))
    assert np.array_equal(pixels, expected.reshape(side, side, channels).transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(12, 20), (12, 20, 3), (12, 20, 4)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_turned_tiff_is_upright(tmp_path, orientation, dtype, shape, compression):
    values = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    tifffile.imwrite(
        tmp_path / "turned.tif",
        values,
        compression=compression,
        photometric="minisblack" if len(shape) == 2 else "rgb",
        extrasamples=["unassalpha"] if shape[-1] == 4 else None,
        extratags=[(274, "H", 1, orientation, True)],
    )
    checked_upright(tmp_path / "turned.tif", values, orientation)


@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_deep_png_is_upright(tmp_path, orientation):
    values = np.random.default_rng(0).integers(0, 60000, (12, 20, 3)).astype(np.uint16)
    exif = Image.Exif()
    exif[274] = orientation
    checked_upright(write_deep_png(tmp_path / "turned.png", values, exif.tobytes()), values, orientation)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_tiff_that_counts_from_white(tmp_path, dtype):
    values = (RAMP // 256 if dtype == "uint8" else RAMP).astype(dtype)
    tifffile.imwrite(tmp_path / "white.tif", values, photometric="miniswhite")
    assert np.array_equal(kept(tmp_path / "white.tif", dtype, 1)[0], np.iinfo(dtype).max - values)


def test_floats_that_count_from_white_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "white.tif", RAMP.astype(np.float32), photometric="miniswhite")
    with pytest.raises(UnreadableError, match="MINISWHITE"):
        square(tmp_path / "white.tif", Layout(channels=1, dtype="float32", side=SIDE, background=None))


def test_a_transparent_logo_shows_the_background(tmp_path):
    logo = np.zeros((SIDE, SIDE, 4), np.uint8)
    logo[4:12, 4:12] = (200, 10, 20, 255)
    Image.fromarray(logo).save(tmp_path / "logo.png")
    for background in (0, 127, 255):
        pixels = square(tmp_path / "logo.png", Layout(channels=3, dtype="uint8", side=SIDE, background=background))
        assert pixels[:, 0, 0].tolist() == [background] * 3
        assert pixels[:, 8, 8].tolist() == [200, 10, 20]
    pixels = square(tmp_path / "logo.png", Layout(channels=4, dtype="uint8", side=SIDE, background=None))
    assert np.array_equal(pixels, logo.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.png", b"not an image", "not an image"),
        ("a.jpg", b"", "not an image"),
        ("a.tif", b"II*\0broken", "."),
    ],
)
def test_broken_files_say_why(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableError, match=why):
        header(tmp_path / name)


def test_a_file_that_lies_about_its_type_is_refused(tmp_path):
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "honest.png")
    (tmp_path / "honest.png").rename(tmp_path / "lie.jpg")
    with pytest.raises(UnreadableError, match="is a PNG file, not what its name says"):
        header(tmp_path / "lie.jpg")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MAX_PIXELS", 100)
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "bomb.png")
    tifffile.imwrite(tmp_path / "bomb.tif", RAMP)
    for path in (tmp_path / "bomb.png", tmp_path / "bomb.tif"):
        with pytest.raises(UnreadableError, match="decompression bomb"):
            header(path)


def test_a_real_bomb(tmp_path):
    # 30,000 x 30,000 black pixels in 110 KB: pillow itself refuses to decode it.
    rows = zlib.compress(bytes(30000 * 3750 + 30000), 1)
    shape = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", shape), (b"IDAT", rows), (b"IEND", b""))
    )
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(UnreadableError, match="900000000 pixels"):
        header(tmp_path / "bomb.png")


def test_values_that_are_not_stored_are_refused_by_name(tmp_path):
    tifffile.imwrite(tmp_path / "long.tif", RAMP.astype(np.int32))
    with pytest.raises(UnreadableError, match="int32 values: uint8, uint16, int16, float32 are stored"):
        header(tmp_path / "long.tif")
    values = RAMP.astype(np.float32)
    values[3, 3] = np.nan
    with pytest.raises(UnreadableError, match="not finite"):
        square(values, Layout(channels=1, dtype="float32", side=SIDE, background=None))


def test_shrinking_keeps_depth_and_mean():
    values = np.random.default_rng(0).integers(20000, 60000, (64, 96, 2)).astype(np.uint16)
    pixels = square(values, Layout(channels=2, dtype="uint16", side=16, background=None))
    assert pixels.dtype == np.uint16
    assert abs(pixels.mean() - values[:, 16:80].mean()) < 200
    assert pixels.std() < values.std()


def test_what_is_measured():
    layout = Layout(channels=2, dtype="uint16", side=SIDE, background=None)
    values = np.random.default_rng(0).integers(0, 4096, (SIDE, SIDE, 2)).astype(np.uint16)
    pixels, found = measured(values, layout)
    assert np.array_equal(pixels, values.transpose(2, 0, 1))
    assert np.allclose(found.mean, pixels.mean(axis=(1, 2)))
    assert np.allclose(found.square, np.square(pixels.astype(float)).mean(axis=(1, 2)))
    assert pixels.min() <= found.low < found.high <= pixels.max()
    assert found.thumbnail.shape == (16, 16)
    other = values.copy()
    other[0, 0, 0] ^= 1
    assert measured(other, layout)[1].digest != found.digest
    assert measured(values.copy(), layout)[1].digest == found.digest


def test_what_tells_copies_does_not_change_with_the_stored_size(tmp_path):
    blocks = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    photograph = Image.fromarray(blocks).resize((1600, 1200), Image.Resampling.BICUBIC)
    photograph.save(tmp_path / "a.jpg")
    deep = np.random.default_rng(1).integers(0, 60000, (90, 80)).astype(np.uint16)
    for item, channels, dtype in (
        (tmp_path / "a.jpg", 3, "uint8"),
        (np.asarray(photograph), 3, "uint8"),
        (deep, 1, "uint16"),
    ):
        found = [
            measured(item, Layout(channels=channels, dtype=dtype, side=side, background=255))[1]
            for side in (16, 73, 256)
        ]
        assert len({one.phash for one in found}) == 1
        assert len({one.content for one in found}) == 1
        assert len({one.digest for one in found}) == 3
        assert all(np.array_equal(one.thumbnail, found[0].thumbnail) for one in found)
