"""Keep files that are not complete yet apart, so that those of killed processes are found and removed."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from .ownership_record import MARKER, owner_of

_UNFINISHED = "unfinished"


@contextlib.contextmanager
def unfinished(path: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """Yield a new path for the content of `path` while it is written; what is left there at the end is removed.

    It lies in `unfinished/` of the folder of ours, or beside the file where there is none. It is locked until the
    `with` block ends, so that the unfinished files of killed processes can be told from those of living ones.
    """
    owner = owner_of(path)
    name = f"{uuid.uuid4().hex[:8]}-{path.name}"
    if owner is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        place, aside = path.parent, path.with_name(f".{path.name}.{name[:8]}.part")
    else:
        place = owner / MARKER / _UNFINISHED
        place.mkdir(parents=True, exist_ok=True)
        aside = place / name
    with _locked(place, fcntl.LOCK_SH):
        if is_folder:
            aside.mkdir()
        descriptor = os.open(aside, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _try_lock(descriptor, fcntl.LOCK_EX)
    try:
        yield aside
    finally:
        os.close(descriptor)
        if is_folder:
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove unfinished files of killed processes; those of living ones are locked."""
    place = folder / MARKER / _UNFINISHED
    if not place.is_dir():
        return
    with _locked(place, fcntl.LOCK_EX) as is_locked:
        for path in place.iterdir() if is_locked else ():
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            is_free = _try_lock(descriptor, fcntl.LOCK_EX)
            os.close(descriptor)
            if is_free:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def _locked(folder: Path, kind: int) -> Iterator[bool]:
    """Lock a folder for the `with` block; yield False where the file system has no locks, or another holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _try_lock(descriptor, kind)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        # Shared locks are held for an instant alone, so they are waited for.
        fcntl.flock(descriptor, kind if kind == fcntl.LOCK_SH else kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
