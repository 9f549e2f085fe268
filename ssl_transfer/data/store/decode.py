"""Decode one image to a stored square, in the size, channels and depth of its data set.

Runs in worker processes, without torch.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ssl_transfer.engine.io.file_errors import naming

from .image_files import (
    ALPHA_MODES,
    GREY_MODES,
    DType,
    Encoded,
    Header,
    UnreadableError,
    header,
    is_deep,
    is_deep_tiff,
    open_image,
    orientation_of,
    read_tiff,
    upright,
)

THUMBNAIL = 16
"""Pixels a side of the grey thumbnail that confirms near duplicates."""
LOOK = 64
"""Pixels a side of the image from which hash and thumbnail are computed, at any stored size. A split that keeps near
duplicates together must not change with the size."""
DRAFT = 256
"""JPEGs are decoded at a fraction of their size, but never below this many pixels a side or the stored size."""

_HASH_BYTES = 8
_BLOCK = 1 << 20
"""Bytes of a file that are read at a time."""


@dataclass(frozen=True)
class Layout:
    """Storage format of images, the same for all of a data set."""

    channels: int
    """Number of channels, including alpha where it is kept."""
    dtype: DType
    side: int
    """Pixels a side."""
    background: int | None
    """Grey value (0..255) of transparent pixels; None keeps alpha as the last channel."""

    @property
    def image_bytes(self) -> int:
        """Return the bytes of one stored image."""
        return self.channels * self.side**2 * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Measured:
    """Measurements of a stored image."""

    content: int
    """64-bit hash of the source image: a file's bytes, an array's values. It does not depend on the stored format."""
    digest: int
    """64-bit hash of the stored pixels: equal for exact duplicates."""
    phash: int
    """64-bit perceptual hash of the square in grey (Zauner 2010)."""
    thumbnail: np.ndarray
    """(16, 16) uint8: the square in grey."""
    mean: np.ndarray
    """(C,) float64: mean of each channel, in stored units."""
    square: np.ndarray
    """(C,) float64: mean of the squares."""
    low: float
    """Value that a thousandth of the pixels lies below; a single hot pixel does not move it."""
    high: float
    """Value that a thousandth of the pixels lies above."""


def square(item: Encoded, layout: Layout) -> np.ndarray:
    """Resize the middle square of an image to the layout's size.

    Returns:
        (C, side, side) of the layout's dtype, antialiased when it shrinks, EXIF rotation undone.

    Raises:
        UnreadableError: as for `header`, and pixels that are cut short or not finite.
    """
    return _stored(_middle(item, layout), layout)


def measured(item: Encoded, layout: Layout) -> tuple[np.ndarray, Measured]:
    """Return the result of `square` and its measurements; raises as `square` does."""
    import imagehash

    middle = _middle(item, layout)
    pixels = _stored(middle, layout)
    grey = _grey_image(_stored(middle, replace(layout, side=LOOK)))
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    if pixels.dtype == np.uint8:
        low, high = 0.0, 255.0
    else:
        low, high = (float(value) for value in np.quantile(flat, (0.001, 0.999)))
    return pixels, Measured(
        content=content(item),
        digest=digest(pixels),
        phash=int("".join("1" if bit else "0" for bit in imagehash.phash(grey).hash.ravel()), 2),
        thumbnail=np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)),
        mean=flat.mean(axis=1),
        square=np.square(flat).mean(axis=1),
        low=low,
        high=high,
    )


def content(item: Encoded) -> int:
    """Compute a 64-bit hash of the source image."""
    if isinstance(item, np.ndarray):
        return digest(item)
    return _hash(item) if isinstance(item, bytes) else file_hash(item)


def file_hash(path: Path) -> int:
    """Compute the hash of a file's bytes: that of `content`."""
    found = hashlib.blake2b(digest_size=_HASH_BYTES)
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return int.from_bytes(found.digest(), "big")


def text_hash(text: str) -> int:
    """Compute a 64-bit hash of a text."""
    return _hash(text.encode())


def digest(pixels: np.ndarray) -> int:
    """Compute a 64-bit hash of the pixels."""
    return _hash(pixels.tobytes())


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=_HASH_BYTES).digest(), "big")


def _grey_image(pixels: np.ndarray) -> Image.Image:
    """Convert (C, S, S) of any kind to an 8-bit grey image; deeper values are stretched to their own range."""
    if pixels.dtype == np.uint8 and len(pixels) == 3:
        return Image.fromarray(pixels.transpose(1, 2, 0)).convert("L")
    grey = pixels.astype(np.float32).mean(axis=0)
    if pixels.dtype != np.uint8:
        grey -= grey.min()
        grey *= 255.0 / max(float(grey.max()), 1e-12)
    return Image.fromarray(np.round(grey).astype(np.uint8))


def _middle(item: Encoded, layout: Layout) -> Image.Image | np.ndarray:
    """Crop the middle square at decoded size: 8-bit images in the layout's mode, others (H, H, C) unchanged."""
    if isinstance(item, np.ndarray):
        # Arrays of 8-bit grey or RGB are treated as files of them.
        if layout.dtype == "uint8" and item.dtype == np.uint8 and (item.ndim == 2 or item.shape[2] in (1, 3)):
            flat = item[:, :, 0] if item.ndim == 3 and item.shape[2] == 1 else item
            return _middle_of_image(Image.fromarray(np.ascontiguousarray(flat)), layout)
        return _middle_of_array(item, layout)
    if is_deep_tiff(item):
        return _middle_of_array(read_tiff(item, header_only=False), layout)
    with open_image(item) as image:
        if layout.dtype != "uint8":
            return _middle_of_array(_deep_array(item, image), layout)
        least = max(DRAFT, layout.side)
        image.draft("L" if layout.channels == 1 else "RGB", (least, least))
        return _middle_of_image(ImageOps.exif_transpose(image), layout)


def _middle_of_image(image: Image.Image, layout: Layout) -> Image.Image:
    alpha = image.mode in ALPHA_MODES or "transparency" in image.info
    if alpha and layout.background is not None:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (layout.background,) * 3 + (255,))
        image = Image.alpha_composite(paper, image)
    return image.convert({1: "L", 3: "RGB", 4: "RGBA"}[layout.channels]).crop(_box(image.width, image.height))


def _middle_of_array(values: np.ndarray, layout: Layout) -> np.ndarray:
    if values.ndim == 2:
        values = values[:, :, None]
    if values.dtype == bool:
        values = values * np.uint8(255)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnreadableError("has values that are not finite (NaN or infinity)")
    if values.shape[2] == 1 and layout.channels == 3:
        values = values.repeat(3, axis=2)
    if values.shape[2] != layout.channels:
        raise UnreadableError(f"has {values.shape[2]} channels; the others have {layout.channels}")
    left, top, right, bottom = _box(values.shape[1], values.shape[0])
    return values[top:bottom, left:right]


def _box(width: int, height: int) -> tuple[int, int, int, int]:
    """Compute left, top, right, bottom of the middle square, in whole pixels to avoid half-pixel blur."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _deep_array(item: Path | bytes, image: Image.Image) -> np.ndarray:
    """Read 16-bit or float pixels (H, W) or (H, W, C) of a file that Pillow opens."""
    if is_deep(image) and image.mode not in GREY_MODES:
        # Pillow would drop the lower bits. Imported here: torch takes seconds, and few files need it.
        import torch
        from torchvision.io import decode_image

        data = torch.frombuffer(bytearray(item if isinstance(item, bytes) else item.read_bytes()), dtype=torch.uint8)
        return upright(decode_image(data).numpy().transpose(1, 2, 0), orientation_of(image))
    values = np.asarray(ImageOps.exif_transpose(image))
    if values.dtype == np.int32:
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableError("32-bit integers: uint8, uint16, int16 and float32 are stored; convert it")
        values = values.astype(np.uint16)
    return values


def _stored(middle: Image.Image | np.ndarray, layout: Layout) -> np.ndarray:
    """Resize a middle square to (C, side, side) of the layout's dtype; arrays channel by channel in float32."""
    size = (layout.side, layout.side)
    if isinstance(middle, Image.Image):
        values = np.asarray(middle.resize(size, Image.Resampling.BICUBIC))
        return np.ascontiguousarray(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))
    dtype = np.dtype(layout.dtype)
    if middle.shape[:2] == size:
        return np.ascontiguousarray(middle.astype(dtype).transpose(2, 0, 1))
    resized = np.stack([_resize(middle[:, :, channel], layout.side) for channel in range(layout.channels)])
    if dtype.kind == "f":
        return resized
    limits = np.iinfo(dtype)
    return np.clip(np.round(resized), limits.min, limits.max).astype(dtype)


def _resize(channel: np.ndarray, side: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def headers_of(items: Sequence[Encoded]) -> list[Header | str]:
    """Read the header of each image, or the reason why it is unreadable. Runs in a worker process."""
    return [_answer(header, item) for item in items]


def squares_of(items: Sequence[Encoded], layout: Layout) -> np.ndarray:
    """Decode images anew: (B, C, side, side). Runs in a worker process.

    Raises:
        UnreadableError: one can no longer be read.
    """
    pixels = np.empty((len(items), layout.channels, layout.side, layout.side), np.dtype(layout.dtype))
    for row, item in enumerate(items):
        try:
            pixels[row] = square(item, layout)
        except UnreadableError as error:
            named = f"{item}: " if isinstance(item, Path) else ""
            raise UnreadableError(f"{named}{error} (it could be read when the run began)") from error
    return pixels


def store_squares(items: Sequence[Encoded], layout: Layout, file: str, offset: int) -> list[Measured | str]:
    """Decode images and write them consecutively into `file` from byte `offset`. Runs in a worker process.

    Returns:
        Measurements of each image, or the reason why it is unreadable; its row is then left empty. With `file` empty
        nothing is written.
    """
    answers: list[Measured | str] = []
    descriptor = os.open(file, os.O_WRONLY) if file else -1
    try:
        for item in items:
            answer = _answer(measured, item, layout)
            if not isinstance(answer, str):
                pixels, answer = answer
                if file:
                    _write(descriptor, pixels.tobytes(), offset, file)
            answers.append(answer)
            offset += layout.image_bytes
    finally:
        if file:
            os.close(descriptor)
    return answers


def _write(descriptor: int, data: bytes, offset: int, file: str) -> None:
    """Write all the bytes; the last ones of a full disk are a part of them, and the next call raises its error."""
    with naming(Path(file)):
        while data:
            count = os.pwrite(descriptor, data, offset)
            data, offset = data[count:], offset + count


def _answer(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function`, or return the reason of its failure, so that a broken file does not stop the others."""
    try:
        return function(*arguments)
    except UnreadableError as error:
        return str(error)
    except Exception as error:  # Libraries raise many kinds for a broken file; each is named to the user.
        return f"{type(error).__name__}: {error}"
