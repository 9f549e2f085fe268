"""Decode images once into one file of pixels on disk, shared by every run that reads the same images.

An entry is a folder, complete or absent. It holds `pixels.npy`, one row an image; the measurements of each image, a
file a column; and `record.json`. Rows are read with `pread`, not mapped: a batch costs one copy, and the process needs
memory only for its batches. If the disk is too small for the pixels, the entry holds the columns alone, and rows are
decoded anew.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from ssl_transfer.data.dataset import Pixels
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine.console.formatting import file_size
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.npy_files import map_array
from ssl_transfer.engine.terminal import say

from . import cache_folder
from .cache_build import COLUMNS, Names, fill, fits
from .cache_integrity import intact
from .columns import Stored
from .content_key import Key
from .decode import Layout
from .image_files import Encoded
from .parallel import num_workers
from .pixels import OnDisk, Streamed

FORMAT = 5
"""Format version of an entry. An older one is not read, but built anew."""


def store(
    items: Sequence[Encoded],
    names: Names,
    *,
    key: Key,
    source: str,
    image_size: int,
    config: LoadingConfig,
) -> Stored:
    """Decode images to squares of one layout, or open the entry of an earlier run.

    The shorter side is resized to the stored size and the middle square is kept; EXIF rotation is respected.

    Args:
        items: encoded images.
        names: names of the images in messages.
        key: computes a text that changes with the content of any image.
        source: the DATA string, for the list of the cache.
        image_size: pixels a side of the model's input.
        config: channels, sizes, limits.

    Raises:
        InputError: more than `max_unreadable` of the images cannot be read; they differ in channels or in depth; one
            changes while they are decoded; the folder of the cache cannot be used.
        OSError: the disk is full.
    """
    settings = {"format": FORMAT, "image_size": image_size}
    settings |= {name: getattr(config, name) for name in ("channels", "background", "stored_size")}
    with cache_folder.opened(config.cache) as folder:
        content = key(config)
        entry = folder / joblib.hash([content, settings])
        with cache_folder.locked(folder, entry.name):
            record = _record(entry, config)
            if record is None:
                with cache_folder.building(entry) as aside:
                    fill(aside, items, names, source=source, image_size=image_size, config=config)
                    if key(config) != content:
                        raise InputError(f"--data {source}: images changed while they were decoded. Start again.")
                record = json.loads((entry / cache_folder.RECORD).read_text(encoding="utf-8"))
            # The time of the folder is that of its last use.
            os.utime(entry)
            return _open(entry, record, items, config)


def _record(entry: Path, config: LoadingConfig) -> dict[str, Any] | None:
    """Read the record of a complete, sufficient entry; None where there is none."""
    if not cache_folder.is_ours(entry) or not (entry / cache_folder.RECORD).is_file():
        return None
    try:
        record = intact(entry)
    except Exception as error:  # Of damaged bytes anything can be raised.
        say(f"warning: {entry}: damaged ({error}); the images are decoded again.")
        return None
    pixels = entry / "pixels.npy"
    if not pixels.is_file() and fits(record["num_rows"] * Layout(**record["layout"]).image_bytes, entry, config):
        return None
    return record


def _open(entry: Path, record: dict[str, Any], items: Sequence[Encoded], config: LoadingConfig) -> Stored:
    columns = {name: map_array(entry / f"{name}.npy") for name in COLUMNS}
    layout, rows = Layout(**record["layout"]), columns.pop("rows")
    unreadable, notes = record["unreadable"], list(record["notes"])
    if unreadable:
        named = "; ".join(f"{name}: {why}" for name, why in list(unreadable.items())[:5])
        more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        message = f"{len(unreadable)} of {len(items)} images cannot be read: {named}{more}."
        if len(unreadable) > config.max_unreadable * len(items) or not len(rows):
            raise InputError(
                f"{message} That is more than --loading.max-unreadable {config.max_unreadable:g} allows: "
                "mend or remove them, or allow more."
            )
        notes.append(f"warning: {message} They are left out.")
    pixels: Pixels
    if (entry / "pixels.npy").is_file():
        pixels = OnDisk(entry / "pixels.npy", np.asarray(rows))
    else:
        workers = num_workers(config)
        size = file_size(len(rows) * layout.image_bytes)
        notes.append(
            f"{size} of pixels are more than the cache may hold (--loading.cache-gb): decoded anew for every batch by "
            f"{workers} worker processes."
        )
        pixels = Streamed(items, columns["kept"], layout, workers)
    return Stored(pixels=pixels, **columns, unreadable=unreadable, notes=tuple(notes))
