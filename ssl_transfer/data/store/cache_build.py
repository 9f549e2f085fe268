"""Decode images into a new entry of the cache (`cache.py`): pixels, columns and record."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine.io import ownership
from ssl_transfer.engine.io.atomic import save_array, write_text
from ssl_transfer.engine.io.checksum import sealed
from ssl_transfer.engine.io.file_errors import naming
from ssl_transfer.engine.redaction import redacted_all

from . import cache_folder
from .cache_integrity import checksums
from .columns import MEASURED, Columns
from .decode import headers_of, store_squares
from .image_files import Encoded
from .parallel import run_in_workers
from .storage_layout import agree

FREE_DISK = 0.8
"""Share of the free disk that pixels may use."""
COLUMNS = ("kept", "rows", "sizes", *MEASURED)
"""Names of the columns of an entry."""
Names = Sequence[str] | np.ndarray
_CHUNK = 64


def fits(size: int, folder: Path, config: LoadingConfig) -> bool:
    """Test if this many bytes may be written to the folder of the cache."""
    if config.cache_gb is not None:
        return size <= config.cache_gb * 1e9
    return size <= FREE_DISK * shutil.disk_usage(folder).free


def fill(
    entry: Path, items: Sequence[Encoded], names: Names, *, source: str, image_size: int, config: LoadingConfig
) -> None:
    """Decode every image; write all files of an entry, `record.json` last."""
    tasks: Iterable[tuple] = ((chunk,) for chunk in _chunks(items, range(len(items))))
    answered = run_in_workers(headers_of, tasks, len(items), "reading headers", config)
    found = [one for answers in answered for one in answers]
    unreadable = {str(names[i]): one for i, one in enumerate(found) if isinstance(one, str)}
    readable = [i for i, one in enumerate(found) if not isinstance(one, str)]
    headers = [one for one in found if not isinstance(one, str)]
    layout, notes = agree(headers, [str(names[i]) for i in readable], image_size, config)
    sizes = np.array([(one.width, one.height) for one in headers], dtype=np.int64).reshape(-1, 2)
    del found, headers

    pixels, offset = entry / "pixels.npy", 0
    written = fits(len(readable) * layout.image_bytes, entry, config)
    if written:
        shape = (len(readable), layout.channels, layout.side, layout.side)
        if readable:
            ownership.claim(pixels)
            with naming(pixels):
                offset = np.lib.format.open_memmap(pixels, mode="w+", dtype=layout.dtype, shape=shape).offset
        else:
            save_array(pixels, np.empty(shape, layout.dtype))
    file = str(pixels) if written else ""
    tasks = (
        (chunk, layout, file, offset + number * _CHUNK * layout.image_bytes)
        for number, chunk in enumerate(_chunks(items, readable))
    )
    rows: list[int] = []
    columns = Columns(layout.channels, len(readable))
    row = 0
    for answers in run_in_workers(store_squares, tasks, len(readable), "decoding images", config):
        for answer in answers:
            if isinstance(answer, str):
                unreadable[str(names[readable[row]])] = answer
            else:
                columns.put(len(rows), answer)
                rows.append(row)
            row += 1
    arrays = {
        **columns.arrays(len(rows)),
        "kept": np.array(readable, dtype=np.int64)[rows],
        "rows": np.array(rows, dtype=np.int64),
        "sizes": sizes[rows],
    }
    for name in COLUMNS:
        save_array(entry / f"{name}.npy", arrays[name])
    if written:
        with naming(pixels), open(pixels, "rb") as opened:
            os.fsync(opened.fileno())
    record = {
        "source": source,
        "layout": asdict(layout),
        "num_rows": len(readable),
        "pixels_bytes": pixels.stat().st_size if written else 0,
        "unreadable": unreadable,
        "notes": notes,
    }
    record["checksums"] = checksums(entry)
    write_text(entry / cache_folder.RECORD, json.dumps(sealed(redacted_all(record))))


def _chunks(items: Sequence[Encoded], positions: Sequence[int]) -> Iterator[list[Encoded]]:
    for start in range(0, len(positions), _CHUNK):
        yield [items[position] for position in positions[start : start + _CHUNK]]
