"""Compute keys that follow the content of images.

A key is computed from the hash of every file. A file is read again only if its size, modification time, change time or
inode differ from those at its last reading. No program can set the change time: a file that was replaced or rewritten
with its size and modification time kept is read again. Files that were copied, moved or touched have the same key.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import save_array
from ssl_transfer.engine.io.npy_files import load_array

from . import cache_folder
from .decode import file_hash, text_hash
from .parallel import run_in_threads

Key = Callable[[LoadingConfig], str]
"""Computes a text that is equal for equal images, in order. Hashes of files are kept in the folder of the cache."""
SETTLED = 2 * 10**9
"""Nanoseconds from which a change time is trusted. A file may change twice within a step of a coarse clock."""
_CHUNK = 256
_UNKNOWN = 0
"""Size, times and inode of a file that is read at each start: it is missing, or has just changed."""


def fixed(text: str) -> Key:
    """Wrap a key that follows the content already."""
    return lambda _: text


def of_files(root: Path, names: Sequence[str] | np.ndarray, *, more: str = "") -> Key:
    """Build the key of files, by their paths inside a folder; `more` is a further text that the images depend on."""

    def key(config: LoadingConfig) -> str:
        hashes = _hashes(root, names, config)
        digest = hashlib.sha256(more.encode())
        for name, one in zip(names, hashes.tolist(), strict=True):
            digest.update(f"\0{name}\0{one}".encode())
        return digest.hexdigest()

    return key


def _hashes(root: Path, names: Sequence[str] | np.ndarray, config: LoadingConfig) -> np.ndarray:
    """Return the hash of each file, (N,) uint64; only files that may have changed are read."""
    if not len(names):
        return np.empty(0, np.uint64)
    place = str(root.resolve())
    digest = hashlib.sha256(os.fsencode(place))
    for name in names:
        digest.update(f"\0{name}".encode())
    listing = digest.hexdigest()[:32]
    with cache_folder.opened(config.cache) as folder:
        file = cache_folder.index_of(folder) / f"{listing}.npy"
        signatures = _signatures(place, names)
        known = _known(file, len(names))
        if not _changed(signatures, known).any():
            os.utime(file)
            return known[:, -1].view(np.uint64)
        with cache_folder.locked(folder, listing):
            # Another process may have read them meanwhile.
            known = _known(file, len(names))
            table = np.column_stack([signatures, known[:, -1]])
            rows = np.flatnonzero(_changed(signatures, known)).tolist()
            found = np.fromiter(_read(place, names, rows, config), np.uint64, len(rows))
            table[rows, -1] = found.view(np.int64)
            if not np.array_equal(table, known):
                save_array(cache_folder.claimed(file), table)
            return table[:, -1].view(np.uint64)


def _signatures(place: str, names: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return size, modification time, change time and inode of each file, (N, 4) int64."""
    latest = time.time_ns() - SETTLED
    found = np.full((len(names), 4), _UNKNOWN, np.int64)
    for row, name in enumerate(names):
        try:
            status = os.stat(os.path.join(place, name))
        except OSError:
            continue
        if status.st_ctime_ns < latest:
            # Inodes of some file systems have 64 bits.
            inode = status.st_ino & (2**63 - 1)
            found[row] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode)
    return found


def _known(file: Path, count: int) -> np.ndarray:
    """Read the signatures and hashes of an earlier start, (N, 5) int64; unknown ones where there are none."""
    try:
        table = load_array(file)
        if table.shape == (count, 5) and table.dtype == np.int64:
            return table
    except (OSError, InputError):
        pass
    return np.full((count, 5), _UNKNOWN, np.int64)


def _changed(signatures: np.ndarray, known: np.ndarray) -> np.ndarray:
    return (signatures != known[:, :-1]).any(axis=1) | (signatures == _UNKNOWN).all(axis=1)


def _read(place: str, names: Sequence[str] | np.ndarray, rows: Sequence[int], config: LoadingConfig) -> Iterator[int]:
    paths = [os.path.join(place, names[row]) for row in rows]
    tasks = ((paths[start : start + _CHUNK],) for start in range(0, len(paths), _CHUNK))
    for answers in run_in_threads(_hash_all, tasks, len(paths), "reading files", config):
        yield from answers


def _hash_all(paths: Sequence[str]) -> list[int]:
    return [_hash(path) for path in paths]


def _hash(path: str) -> int:
    try:
        return file_hash(Path(path))
    except OSError as error:
        # As a link that leads nowhere: it is named with the images that cannot be decoded.
        return text_hash(str(error.strerror))
