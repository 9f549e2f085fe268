"""List and remove entries of the cache of decoded pixels (`cache.py`). Other files in the folder stay untouched."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from ssl_transfer.engine.io.npy_files import map_array

_KEY = re.compile(r"[0-9a-f]{24,64}")
_SUFFIXES = ("", ".partial", ".lock", ".npy", ".json")
"""Suffixes of an entry, of a killed run's leftovers, of the lock, and of the files of an early version."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Decoded images of one source, or the leftovers of a killed run."""

    folder: Path
    """Folder of the cache."""
    key: str
    source: str
    """DATA string of the run that created it; empty for an incomplete entry."""
    num_images: int
    kind: str
    """Layout of one image, as in 3 x 73 x 73 uint8."""
    size: int
    """Bytes on disk."""
    last_used: float
    """Seconds since 1970."""
    busy: bool
    """True while a run decodes into it."""

    @property
    def complete(self) -> bool:
        """Test if runs can read it."""
        return bool(self.source)


def entries(folder: Path) -> list[Entry]:
    """List all entries of the cache in `folder`, the last used first."""
    if not folder.is_dir():
        return []
    keys: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        key = path.name.removesuffix(path.suffix)
        if _KEY.fullmatch(key) and path.suffix in _SUFFIXES:
            keys.setdefault(key, []).append(path)
    found = [_entry(folder, key, paths) for key, paths in keys.items()]
    return sorted((one for one in found if one is not None), key=lambda one: one.last_used, reverse=True)


def evict(entry: Entry) -> bool:
    """Remove an entry, unless a run is decoding into it. A run that reads it keeps its open files."""
    with _held(entry.folder / f"{entry.key}.lock") as lock:
        if not lock:
            return False
        for suffix in _SUFFIXES:
            path = entry.folder / f"{entry.key}{suffix}"
            if path.is_dir() and not path.is_symlink():
                # Its record first: half an entry must not look whole.
                (path / "record.json").unlink(missing_ok=True)
                shutil.rmtree(path)
            elif suffix:
                path.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def _held(lock: Path) -> Iterator[bool]:
    """Try to take the lock for the `with` block; yield True on success."""
    holder = filelock.FileLock(lock)
    try:
        holder.acquire(blocking=False)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        holder.release()


def _entry(folder: Path, key: str, paths: list[Path]) -> Entry | None:
    """Build an entry from its files; None if it is removed meanwhile."""
    source, count, kind = "", 0, ""
    try:
        record = json.loads((folder / key / "record.json").read_text(encoding="utf-8"))
        layout, source = record["layout"], record["source"]
        count = len(map_array(folder / key / "kept.npy"))
        kind = f"{layout['channels']} x {layout['side']} x {layout['side']} {layout['dtype']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # What cannot be read can still be evicted.
        source = ""
    try:
        size = sum(_size(path) for path in paths)
        last = max(path.stat().st_mtime for path in ([folder / key] if source else paths))
    except OSError:
        return None
    with _held(folder / f"{key}.lock") if folder / f"{key}.lock" in paths else contextlib.nullcontext(True) as free:
        busy = not free
    return Entry(
        folder=folder, key=key, source=source, num_images=count, kind=kind, size=size, last_used=last, busy=busy
    )


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir())
    return path.stat().st_size
