"""Check an entry of the cache of pixels (`cache.py`) for damage.

The record and the columns, some hundred bytes an image, are verified by checksum each time. The pixels are too many for
that: their size, the head of their file and a few evenly spaced images are verified. The images are compared with the
hash that each has in a column. So large damage is found, and a single flipped bit only within one of these.
`ssl-transfer data cache --verify` compares every image.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.engine.io.checksum import unsealed
from ssl_transfer.engine.io.npy_files import map_array

from .decode import digest

CHECKED = 16
"""Number of images whose pixels are verified."""
_HEAD = 128
"""Bytes of the head of numpy's format."""
_PIXELS = "pixels.npy"


def checksums(entry: Path) -> dict[str, int]:
    """Compute the CRC-32 of each column, and of the head of the pixels."""
    return {path.name: _checksum(path) for path in sorted(entry.glob("*.npy"))}


def intact(entry: Path) -> dict[str, Any]:
    """Read and verify the record of an entry.

    Raises:
        ValueError: a part differs from its record. Damage can raise other exceptions as well.
    """
    record = unsealed(dict(json.loads((entry / "record.json").read_text(encoding="utf-8"))))
    pixels = entry / _PIXELS
    # Without its pixels an entry is whole too: they are then decoded each time.
    if pixels.is_file() and pixels.stat().st_size != record["pixels_bytes"]:
        raise ValueError(f"{_PIXELS} has been cut short, or has grown")
    for name, expected in record["checksums"].items():
        if (name != _PIXELS or pixels.is_file()) and _checksum(entry / name) != expected:
            raise ValueError(f"{name} does not have its checksum")
    if pixels.is_file():
        rows, digests = _images(entry)
        stored = np.load(pixels, mmap_mode="r", allow_pickle=False)
        for place in np.unique(np.linspace(0, len(rows) - 1, CHECKED, dtype=np.int64)) if len(rows) else ():
            if digest(stored[rows[place]]) != int(digests[place]):
                raise ValueError(f"{_PIXELS} does not hold the image of row {rows[place]}")
    return record


def damaged_rows(entry: Path, progress: Callable[[int], object]) -> list[int]:
    """Read every stored image of an entry that is `intact`; return the rows that differ from their hash.

    Args:
        entry: folder of the entry.
        progress: called with the number of images that are read.
    """
    if not (entry / _PIXELS).is_file():
        return []
    rows, digests = _images(entry)
    array = map_array(entry / _PIXELS)
    shape, dtype, offset = array.shape[1:], array.dtype, array.offset
    size, found = int(np.prod(shape)) * dtype.itemsize, []
    with open(entry / _PIXELS, "rb") as file:
        for place, (row, expected) in enumerate(zip(rows.tolist(), digests.tolist(), strict=True), 1):
            file.seek(offset + row * size)
            if digest(np.frombuffer(file.read(size), dtype)) != expected:
                found.append(row)
            progress(place)
    return found


def _images(entry: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the row of each image, and the hash of its pixels."""
    rows, digests = (np.load(entry / f"{name}.npy", allow_pickle=False) for name in ("rows", "digests"))
    return rows, digests


def _checksum(path: Path) -> int:
    with open(path, "rb") as file:
        return zlib.crc32(file.read(_HEAD) if path.name == _PIXELS else file.read())
