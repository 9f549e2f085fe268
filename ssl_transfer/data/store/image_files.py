"""Open one encoded image and read its header, without any conversion.

8-bit images are read by Pillow, deeper PNGs by torchvision, and TIFFs of more bits or bands by tifffile. The module
imports no torch, so that a worker process starts in a tenth of a second.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

Encoded = Path | bytes | np.ndarray
"""A file, its content, or an array (H, W) or (H, W, C)."""

SUFFIXES: dict[str, tuple[str, ...]] = {
    ".jpg": ("JPEG",),
    ".jpeg": ("JPEG",),
    ".png": ("PNG",),
    ".bmp": ("BMP", "DIB"),
    ".webp": ("WEBP",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
    ".gif": ("GIF",),
    ".ppm": ("PPM",),
    ".pgm": ("PPM",),
}
"""Suffixes of image files, and Pillow's names for the formats that a file with that suffix may hold."""
FORMATS = tuple(dict.fromkeys(name for names in SUFFIXES.values() for name in names))
MAX_PIXELS = 178_956_970
"""Largest number of pixels; an image with more is refused as a decompression bomb, as in Pillow."""
_ORIENTATION = 274
"""Orientation tag of EXIF and of TIFF."""
_WHITE_IS_ZERO = 0
"""TIFF's photometric interpretation."""
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GREY_MODES = frozenset({"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
DType = Literal["uint8", "uint16", "int16", "float32"]
_DTYPES: tuple[DType, ...] = ("uint8", "uint16", "int16", "float32")


class UnreadableError(ValueError):
    """Unusable image; the text gives the reason."""


@dataclass(frozen=True)
class Header:
    """Properties of an image before its pixels are decoded."""

    channels: int
    """Channels without alpha; of deep images, alpha is one of the channels."""
    alpha: bool
    """True if pixels may be transparent."""
    dtype: DType
    width: int
    height: int


def header(item: Encoded) -> Header:
    """Read the header of an image.

    Raises:
        UnreadableError: no image, contents other than its name, too many pixels, or a number type that is not stored.
    """
    if isinstance(item, np.ndarray):
        return header_of_array(item.shape, item.dtype)
    if is_deep_tiff(item):
        return header_of_array(*read_tiff(item, header_only=True))
    with open_image(item) as image:
        # Pillow opens deep grey with alpha as RGBA.
        grey = image.mode in GREY_MODES or "LA;16" in str(getattr(image, "tile", ""))
        deep = is_deep(image)
        dtype: DType = "uint16" if deep or image.mode.startswith("I") else "float32" if image.mode == "F" else "uint8"
        # A quarter turn exchanges the sides; Pillow's size of a TIFF already includes the turn.
        turned = orientation_of(image) >= 5 and image.format != "TIFF"
        width, height = image.size[::-1] if turned else image.size
        alpha = image.mode in ALPHA_MODES or "transparency" in image.info
        channels = 1 if grey else 3
        if dtype != "uint8" and alpha:
            return Header(channels + 1, False, dtype, width, height)
        return Header(channels, alpha, dtype, width, height)


def header_of_array(shape: tuple[int, ...], dtype: Any) -> Header:
    """Build the header of an array (height, width) or (height, width, channels)."""
    if len(shape) not in (2, 3) or 0 in shape:
        raise UnreadableError(f"an array of shape {tuple(shape)}: (height, width) or (height, width, channels) is read")
    height, width = shape[:2]
    if height * width > MAX_PIXELS:
        raise UnreadableError(_bomb(width, height))
    dtype = np.dtype(dtype)
    stored = "uint8" if dtype.kind == "b" else "float32" if dtype.kind == "f" else dtype.newbyteorder("=").name
    if stored not in _DTYPES:
        raise UnreadableError(f"{dtype.name} values: {', '.join(_DTYPES)} are stored; convert it to one of them")
    return Header(shape[2] if len(shape) == 3 else 1, False, stored, width, height)


def _bomb(width: int, height: int) -> str:
    return f"{width} x {height} pixels: more than {MAX_PIXELS:,}, which is taken for a decompression bomb"


def open_image(item: Path | bytes) -> Image.Image:
    """Open with Pillow, restricted to the format of the suffix."""
    allowed = SUFFIXES.get(item.suffix.lower(), FORMATS) if isinstance(item, Path) else FORMATS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(item) if isinstance(item, bytes) else item, formats=allowed)
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"{error} (more than {MAX_PIXELS:,} pixels are refused)") from error
    except Exception as error:
        actual = _actual_format(item)
        if actual and actual not in allowed:
            raise UnreadableError(f"is a {actual} file, not what its name says; rename it") from error
        raise UnreadableError("not an image" if actual is None else f"{type(error).__name__}: {error}") from error
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise UnreadableError(_bomb(*image.size))
    if image.format == "TIFF":
        # Pillow 13 maps an uncompressed file of this name into memory, but with the sides that a turn exchanged.
        image.filename = ""
    return image


def orientation_of(image: Image.Image) -> int:
    """Read EXIF's orientation: 1 (upright) to 8."""
    return image.getexif().get(_ORIENTATION, 1)


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror (H, W, ...) pixels of a file by EXIF's orientation."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    rows, columns = (slice(None, None, -1 if orientation in flipped else 1) for flipped in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return values[rows, columns]


def _actual_format(item: Path | bytes) -> str | None:
    try:
        with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item, formats=FORMATS) as image:
            return image.format
    except Exception:  # Whatever is wrong with it, it is none of the formats.
        return None


def is_deep(image: Image.Image) -> bool:
    """Test if a file that Pillow calls RGB has 16 bits a channel; only the raw mode shows it."""
    return ";16" in str(getattr(image, "tile", ""))


def is_deep_tiff(item: Path | bytes) -> bool:
    """Test if a TIFF exceeds Pillow: other than 8 bits, or bands that are neither grey, RGB nor alpha."""
    if isinstance(item, Path) and item.suffix.lower() not in (".tif", ".tiff"):
        return False
    if isinstance(item, bytes):
        start = item[:4]
    else:
        with open(item, "rb") as file:
            start = file.read(4)
    if start not in _TIFF_MAGIC:
        return False
    try:
        with open_image(item) as image:
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            bits, samples, extra = tags.get(258, (1,)), tags.get(277, 1), tags.get(338, ())
            frames = getattr(image, "n_frames", 1)
    except (UnreadableError, AttributeError):
        return True
    undeclared = samples > 3 and 262 in tags and tags[262] in (1, 2) and not set(extra) & {1, 2}
    return max(bits) > 8 or frames > 1 or samples > 4 or samples == 2 or undeclared


def read_tiff(item: Path | bytes, *, header_only: bool) -> Any:
    """Read (height, width, bands) and dtype of a TIFF, or the array itself. Bands may be samples, planes or pages."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(item) if isinstance(item, bytes) else item) as file:
            series, page = file.series[0], file.pages.first
            shape, axes = series.shape, series.axes
            if not {"Y", "X"} <= set(axes) or len(shape) > 3:
                raise UnreadableError(
                    f"a TIFF of axes {axes} and shape {shape}: one image of one or more bands is read"
                )
            order = [axes.index("Y"), axes.index("X"), *(i for i, axis in enumerate(axes) if axis not in "YX")]
            shape = tuple(shape[axis] for axis in order)
            orientation = int(page.tags[_ORIENTATION].value) if _ORIENTATION in page.tags else 1
            if header_only:
                return (shape[1::-1] if orientation >= 5 else shape[:2]) + shape[2:], series.dtype
            header_of_array(shape, series.dtype)
            values = upright(series.asarray().transpose(order), orientation)
            return _black_is_zero(values, page.bitspersample) if page.photometric == _WHITE_IS_ZERO else values
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _black_is_zero(values: np.ndarray, bits: int) -> np.ndarray:
    """Invert the values of a TIFF that counts from white."""
    if values.dtype.kind != "u":
        raise UnreadableError(f"counts from white (MINISWHITE) in {values.dtype.name}, which has no greatest value")
    return (2**bits - 1 - values).astype(values.dtype)
