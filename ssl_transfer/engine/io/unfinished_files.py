"""Keep files that are not complete yet apart, so that those of killed processes are found and removed."""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from .ownership_record import MARKER, locked, owner_of, try_lock

_UNFINISHED = "unfinished"


@contextlib.contextmanager
def unfinished(path: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """Yield a new path for the content of `path` while it is written; what is left there at the end is removed.

    It lies in `unfinished/` of the folder of ours, or in a folder beside the file where there is none. A lock until the
    `with` block ends tells the unfinished files of living processes from those of killed ones.
    """
    owner = owner_of(path)
    if owner is None:
        with beside(path) as aside:
            if is_folder:
                aside.mkdir()
            yield aside
        return
    place = owner / MARKER / _UNFINISHED
    place.mkdir(parents=True, exist_ok=True)
    aside = place / f"{uuid.uuid4().hex[:8]}-{path.name}"
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


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a new path in a folder beside `path`, on its disk; remove that folder at the end.

    The folder, `.NAME.HEX.part/`, holds nothing but the marker, and is locked for the `with` block. The next call for
    the same path removes those that have no lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_beside(path)
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with locked(path.parent, wait=True, shared=True):
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY)
        try_lock(descriptor, wait=False)
    try:
        (folder / MARKER).mkdir()
        yield folder / MARKER / _UNFINISHED
    finally:
        _remove_marked(folder)
        os.close(descriptor)


def sweep_beside(path: Path) -> None:
    """Remove folders of killed processes beside a path; those of living ones are locked, those of others hold files."""
    named = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.part")
    with locked(path.parent, wait=False) as is_locked:
        for folder in path.parent.iterdir() if is_locked else ():
            if named.fullmatch(folder.name):
                # Another process may have removed it meanwhile.
                with contextlib.suppress(OSError):
                    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
                    is_free = try_lock(descriptor, wait=False)
                    if is_free and {held.name for held in folder.iterdir()} <= {MARKER}:
                        _remove_marked(folder)
                    os.close(descriptor)


def _remove_marked(folder: Path) -> None:
    """Remove the marker of a folder and all below it, then the folder, unless it holds files of others."""
    shutil.rmtree(folder / MARKER, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


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
