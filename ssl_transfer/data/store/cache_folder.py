"""Open the folder of the cache, lock its entries, and remove what a record shows as ours.

An entry is a folder `KEY/`, complete or absent; `KEY.partial/` is an entry that is being built. Both have the record of
`engine/io/ownership`, and so has `index/`, which holds the locks and the hashes of files (`content_key.py`). Any other
file or folder stays untouched, whatever its name is. No link is followed.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import ownership
from ssl_transfer.engine.io.checksum import unsealed
from ssl_transfer.engine.io.home_folder import expanded
from ssl_transfer.engine.io.unfinished_files import beside, sweep_beside
from ssl_transfer.engine.terminal import say

FLAG = "--loading.cache"
INDEX = "index"
PARTIAL = ".partial"
RECORD = "record.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def opened(cache: Path) -> Iterator[Path]:
    """Create the folder, and yield it; explain errors of the `with` block.

    Raises:
        InputError: there is no home folder, or the folder cannot be used.
        OSError: its disk is full.
    """
    folder = expanded(cache, flag=FLAG)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        if error.errno in _FULL:
            error.filename = error.filename or str(folder)
            note = (
                f"The decoded pixels do not fit: make room, as with `ssl-transfer data cache {FLAG} {cache}`, or give "
                f"{FLAG} on a larger disk."
            )
            # Calls are nested: a key is computed while the folder is open.
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise
        raise InputError(f"{FLAG} {cache}: cannot be used ({error}). Give another folder.") from error


def index_of(folder: Path) -> Path:
    """Return the folder of locks and hashes; create it with its record, in one step, where there is none."""
    index = folder / INDEX
    if index.is_symlink():
        raise InputError(f"{FLAG} {folder}: {INDEX} is a link, and none is followed. Remove it.")
    sweep_beside(index)
    if not ownership.is_owned(index):
        ownership.check_folder(index, flag=FLAG)
        try:
            _create(index)
        except OSError:
            # Another process may have been first.
            if not ownership.is_owned(index):
                raise
    return index


def _create(place: Path) -> None:
    """Create a folder with its record, both or neither, also after SIGKILL or at a full disk."""
    with beside(place) as aside:
        ownership.own_folder(aside, flag=FLAG)
        os.rename(aside, place)


@contextlib.contextmanager
def locked(folder: Path, key: str) -> Iterator[None]:
    """Lock a key for the `with` block; wait for another process that has it."""
    lock = _lock(folder, key)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        say("waiting for another run that reads the same images")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def lock_of_idle(folder: Path, key: str) -> Iterator[bool]:
    """Lock a key for the `with` block, if no process has it; yield True on success."""
    lock = _lock(folder, key)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_busy(folder: Path, key: str) -> bool:
    """Check whether a process has the lock of a key."""
    if not ownership.is_recorded(folder / INDEX / f"{key}.lock"):
        return False
    with lock_of_idle(folder, key) as idle:
        return not idle


def _lock(folder: Path, key: str) -> filelock.BaseFileLock:
    return filelock.FileLock(claimed(index_of(folder) / f"{key}.lock"))


def claimed(path: Path) -> Path:
    """Enter a file of the index into its record, one process at a time: appending is not atomic on every disk."""
    if not ownership.is_recorded(path):
        with filelock.FileLock(path.parent / ownership.MARKER / "claims.lock"):
            ownership.claim(path)
    return path


@contextlib.contextmanager
def building(entry: Path) -> Iterator[Path]:
    """Yield an empty folder beside an entry; at the end it replaces the entry, or is removed after an error.

    The caller has the entry's lock. The remains of a killed run and a damaged entry are removed.

    Raises:
        InputError: one of the two holds other files than those of its record.
    """
    aside = entry.with_suffix(PARTIAL)
    for place in (aside, entry):
        if os.path.lexists(place) and not is_ours(place):
            raise InputError(
                f"{FLAG} {entry.parent}: {place.name} has no record of ssl_transfer, so it is not replaced. Move it "
                "away, or give another folder."
            )
    _clear(aside)
    _create(aside)
    try:
        yield aside
        _clear(entry)
        os.replace(aside, entry)
    finally:
        if aside.is_dir():
            remove(aside)


def _clear(place: Path) -> None:
    if not os.path.lexists(place):
        return
    if held := stranger(place):
        raise InputError(
            f"{FLAG} {place.parent}: {held} is not in the record of its folder, so the folder is not replaced. "
            "Move it away, or give another folder."
        )
    remove(place)


def is_ours(place: Path) -> bool:
    """Check whether a record shows that a folder is an entry, or one that is being built."""
    return place.is_dir() and not place.is_symlink() and (ownership.is_owned(place) or _sealed(place) is not None)


def stranger(place: Path) -> Path | None:
    """Return a file in an entry that is in no record; None if there is none."""
    names: set[str] = set()
    if not ownership.is_owned(place) and (record := _sealed(place)) is not None:
        names = {RECORD, *record["checksums"]}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place)
        if name.parts[0] == ownership.MARKER or (path.is_dir() and not path.is_symlink()):
            continue
        if name.as_posix() not in names and not ownership.is_recorded(path):
            return path
    return None


def remove(place: Path) -> None:
    """Remove the files in the record of an entry, and the folder if it is empty then."""
    if ownership.is_owned(place):
        # Its record first: half an entry must not look whole.
        ownership.remove(place / RECORD)
        ownership.remove_folder(place)
    elif (record := _sealed(place)) is not None:
        (place / RECORD).unlink()
        for name in record["checksums"]:
            if "/" not in name:
                (place / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            place.rmdir()


def _sealed(place: Path) -> dict[str, Any] | None:
    """Read the record of an entry of format 4, which has no other sign; None if it is not as it was sealed."""
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        if isinstance(record, dict) and {"checksum", "checksums", "layout", "source"} <= record.keys():
            return unsealed(record)
    except (OSError, ValueError, RecursionError):
        pass
    return None
