"""Decode images once into one file of pixels on disk, shared by every run that reads the same images.

An entry is a folder, complete or absent. It holds `pixels.npy`, one row an image; the measurements of each image, a
file a column; and `record.json`. Rows are read with `pread`, not mapped: a batch costs one copy, and the process needs
memory only for its batches. If the disk is too small for the pixels, the entry holds the columns alone, and rows are
decoded anew.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import filelock
import joblib
import numpy as np

from ssl_transfer.data.dataset import Pixels
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine.console.formatting import file_size
from ssl_transfer.engine.console.progress import bar
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.io.checksum import sealed
from ssl_transfer.engine.io.npy_files import map_array
from ssl_transfer.engine.redaction import redacted_all
from ssl_transfer.engine.terminal import say

from .cache_integrity import checksums, intact
from .columns import MEASURED, Columns, Stored
from .decode import Layout, headers_of, store_squares
from .image_files import Encoded
from .pixels import OnDisk, Streamed
from .storage_layout import agree

FREE_DISK = 0.8
"""Share of the free disk that pixels may use."""
_CHUNK = 64
_MANY = 2048
"""Number of images from which processes decode instead of threads; processes take a third of a second to start."""
_COLUMNS = ("kept", "rows", "sizes", *MEASURED)
FORMAT = 4
"""Format version of an entry. An older one is not read, but built anew."""
T = TypeVar("T")
Names = Sequence[str] | np.ndarray


def store(
    items: Sequence[Encoded],
    names: Names,
    *,
    key: str,
    source: str,
    image_size: int,
    config: LoadingConfig,
) -> Stored:
    """Decode images to squares of one layout, or open the entry of an earlier run.

    The shorter side is resized to the stored size and the middle square is kept; EXIF rotation is respected.

    Args:
        items: encoded images.
        names: names of the images in messages.
        key: changes when any image may have changed.
        source: the DATA string, for the list of the cache.
        image_size: pixels a side of the model's input.
        config: channels, sizes, limits.

    Raises:
        InputError: more than `max_unreadable` of the images cannot be read; they differ in channels or in depth.
    """
    settings = {"format": FORMAT, "image_size": image_size}
    settings |= {name: getattr(config, name) for name in ("channels", "background", "stored_size")}
    entry = config.cache.expanduser() / joblib.hash([key, settings])
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with _locked(entry):
            record = _record(entry, config)
            if record is None:
                _build(entry, items, names, source=source, image_size=image_size, config=config)
                record = json.loads((entry / "record.json").read_text(encoding="utf-8"))
            # The time of the folder is that of its last use.
            os.utime(entry)
            return _open(entry, record, items, config)
    except OSError as error:
        raise InputError(f"--loading.cache {config.cache}: cannot be used ({error}). Give another folder.") from error


@contextlib.contextmanager
def _locked(entry: Path) -> Iterator[None]:
    """Lock an entry; a second process waits and finds the entry complete."""
    lock = filelock.FileLock(entry.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        say("waiting for another run that decodes the same images")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _record(entry: Path, config: LoadingConfig) -> dict[str, Any] | None:
    """Read the record of a complete, sufficient entry; None where there is none."""
    file = entry / "record.json"
    if not file.is_file():
        return None
    try:
        record = intact(entry)
    except Exception as error:  # Of damaged bytes anything can be raised.
        say(f"warning: {entry}: damaged ({error}); the images are decoded again.")
        return None
    pixels = entry / "pixels.npy"
    if not pixels.is_file() and _fits(record["num_rows"] * Layout(**record["layout"]).image_bytes, config):
        return None
    return record


def _open(entry: Path, record: dict[str, Any], items: Sequence[Encoded], config: LoadingConfig) -> Stored:
    columns = {name: map_array(entry / f"{name}.npy") for name in _COLUMNS}
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
        workers = _num_workers(config)
        size = file_size(len(rows) * layout.image_bytes)
        notes.append(
            f"{size} of pixels are more than the cache may hold (--loading.cache-gb): decoded anew for every batch by "
            f"{workers} worker processes."
        )
        pixels = Streamed(items, columns["kept"], layout, workers)
    return Stored(pixels=pixels, **columns, unreadable=unreadable, notes=tuple(notes))


def _num_workers(config: LoadingConfig) -> int:
    return config.workers or max(1, joblib.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _fits(size: int, config: LoadingConfig) -> bool:
    """Test if this many bytes may be written to the cache."""
    if config.cache_gb is not None:
        return size <= config.cache_gb * 1e9
    return size <= FREE_DISK * shutil.disk_usage(config.cache.expanduser()).free


def _build(entry: Path, items: Sequence[Encoded], names: Names, **how: Any) -> None:
    """Build an entry in a folder beside it, then rename it into place. Leftovers of a killed run are removed."""
    aside = entry.with_suffix(".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        _fill(aside, items, names, **how)
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(aside, entry)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fill(
    entry: Path, items: Sequence[Encoded], names: Names, *, source: str, image_size: int, config: LoadingConfig
) -> None:
    """Decode every image; write all files of an entry, `record.json` last."""
    tasks: Iterable[tuple] = ((chunk,) for chunk in _chunks(items, range(len(items))))
    found = [one for answers in _parallel(headers_of, tasks, len(items), "reading headers", config) for one in answers]
    unreadable = {str(names[i]): one for i, one in enumerate(found) if isinstance(one, str)}
    readable = [i for i, one in enumerate(found) if not isinstance(one, str)]
    headers = [one for one in found if not isinstance(one, str)]
    layout, notes = agree(headers, [str(names[i]) for i in readable], image_size, config)
    sizes = np.array([(one.width, one.height) for one in headers], dtype=np.int64).reshape(-1, 2)
    del found, headers

    pixels, offset = entry / "pixels.npy", 0
    written = _fits(len(readable) * layout.image_bytes, config)
    if written:
        shape = (len(readable), layout.channels, layout.side, layout.side)
        if readable:
            offset = np.lib.format.open_memmap(pixels, mode="w+", dtype=layout.dtype, shape=shape).offset
        else:
            np.save(pixels, np.empty(shape, layout.dtype))
    file = str(pixels) if written else ""
    tasks = (
        (chunk, layout, file, offset + number * _CHUNK * layout.image_bytes)
        for number, chunk in enumerate(_chunks(items, readable))
    )
    rows: list[int] = []
    columns = Columns(layout.channels, len(readable))
    row = 0
    for answers in _parallel(store_squares, tasks, len(readable), "decoding images", config):
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
    for name in _COLUMNS:
        np.save(entry / f"{name}.npy", arrays[name], allow_pickle=False)
    for part in entry.iterdir():
        with open(part, "rb") as opened:
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
    write_text(entry / "record.json", json.dumps(sealed(redacted_all(record))))


def _chunks(items: Sequence[Encoded], positions: Sequence[int]) -> Iterator[list[Encoded]]:
    for start in range(0, len(positions), _CHUNK):
        yield [items[position] for position in positions[start : start + _CHUNK]]


def _parallel(
    function: Callable[..., list[T]], tasks: Iterable[tuple], total: int, description: str, config: LoadingConfig
) -> Iterator[list[T]]:
    """Yield the results of all tasks, in order, under a progress bar; one task covers many images."""
    parallel = joblib.Parallel(
        n_jobs=_num_workers(config), backend="loky" if total >= _MANY else "threading", return_as="generator"
    )
    done = 0
    with bar(description, total) as progress:
        for answers in parallel(joblib.delayed(function)(*task) for task in tasks):
            done += len(answers)
            progress.update(done, "")
            yield answers
