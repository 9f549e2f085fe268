"""Keep files that are not complete yet apart, so that those of killed processes are found and removed."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from .ownership_record import MARKER, locked, owner_of, try_lock

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
    with locked(place, wait=True, shared=True):
        if is_folder:
            aside.mkdir()
        descriptor = os.open(aside, os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try_lock(descriptor, wait=False)
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
    with locked(place, wait=False) as is_locked:
        for path in place.iterdir() if is_locked else ():
            # A living process may have finished it meanwhile.
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                is_free = try_lock(descriptor, wait=False)
                os.close(descriptor)
                if is_free:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
