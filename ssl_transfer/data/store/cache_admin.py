"""List, verify and remove entries of the cache of decoded pixels (`cache.py`). Other files in it stay untouched."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ssl_transfer.engine.io import ownership
from ssl_transfer.engine.io.npy_files import map_array

from . import cache_folder

_KEY = re.compile(r"[0-9a-f]{24,64}")
_SUFFIXES = ("", cache_folder.PARTIAL)
"""Suffixes of an entry, and of a killed run's leftovers."""


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

    @property
    def place(self) -> Path:
        """Return the folder of its files."""
        return self.folder / self.key


def entries(folder: Path) -> list[Entry]:
    """List all entries of the cache in `folder`, the last used first."""
    keys: dict[str, list[Path]] = {}
    for path in _named_as_entries(folder):
        if cache_folder.is_ours(path):
            keys.setdefault(path.name.removesuffix(path.suffix), []).append(path)
    found = [_entry(folder, key, paths) for key, paths in keys.items()]
    return sorted((one for one in found if one is not None), key=lambda one: one.last_used, reverse=True)


def strangers(folder: Path) -> list[str]:
    """List files and folders with names as of entries, but without a record. They stay."""
    return [path.name for path in _named_as_entries(folder) if not cache_folder.is_ours(path)]


def _named_as_entries(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if path.suffix in _SUFFIXES and _KEY.fullmatch(path.name.removesuffix(path.suffix))]


def evict(entry: Entry) -> str:
    """Remove an entry. A run that reads it keeps its open files.

    Returns:
        Reason for which it stays; empty where it is removed.
    """
    with cache_folder.lock_of_idle(entry.folder, entry.key) as idle:
        if not idle:
            return "a run is decoding into it"
        places = [entry.folder / f"{entry.key}{suffix}" for suffix in _SUFFIXES]
        places = [place for place in places if cache_folder.is_ours(place)]
        for place in places:
            if held := cache_folder.stranger(place):
                return f"{held} is not in its record. Move it away"
        for place in places:
            cache_folder.remove(place)
        ownership.remove(cache_folder.index_of(entry.folder) / f"{entry.key}.lock")
    return ""


def evict_hashes(folder: Path, *, before: float) -> int:
    """Remove hashes of files (`content_key.py`) that no run has used since `before`; return the bytes freed."""
    index, freed = folder / cache_folder.INDEX, 0
    for path in sorted(index.glob("*.npy")) if ownership.is_owned(index) and not index.is_symlink() else ():
        status = path.lstat()
        if status.st_mtime >= before or not ownership.is_recorded(path):
            continue
        with cache_folder.lock_of_idle(folder, path.stem) as idle:
            if idle:
                ownership.remove(path)
                ownership.remove(path.with_suffix(".lock"))
                freed += status.st_size
    return freed


def _entry(folder: Path, key: str, paths: list[Path]) -> Entry | None:
    """Build an entry from its files; None if it is removed meanwhile."""
    source, count, kind = "", 0, ""
    try:
        record = json.loads((folder / key / cache_folder.RECORD).read_text(encoding="utf-8"))
        layout, source = record["layout"], record["source"]
        count = len(map_array(folder / key / "kept.npy"))
        kind = f"{layout['channels']} x {layout['side']} x {layout['side']} {layout['dtype']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # What cannot be read can still be evicted.
        source = ""
    try:
        size = sum(file.lstat().st_size for path in paths for file in path.rglob("*") if not file.is_dir())
        last = max(path.stat().st_mtime for path in ([folder / key] if source else paths))
    except OSError:
        return None
    return Entry(
        folder=folder,
        key=key,
        source=source,
        num_images=count,
        kind=kind,
        size=size,
        last_used=last,
        busy=cache_folder.is_busy(folder, key),
    )
