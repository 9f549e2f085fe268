"""Write files that are complete or absent after any interruption."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ssl_transfer.engine.errors import InputError

_PROBE = 1 << 16
"""Bytes of a trial write after a library failed, which gets the system's error."""


class DamagedError(InputError):
    """Refuse a file that differs from what was written."""


def write_atomically(path: Path, write: Callable[[Path], object], *, before: Callable[[], None] | None = None) -> None:
    """Let `write` fill a file beside `path`, flush it to the disk, then rename it into place.

    A reader of `path` sees the old content or the new.

    Args:
        path: final place of the file.
        write: fills the file at the path that it is called with.
        before: called when the new file is complete on the disk, to move the old one away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        _try_to(write, aside)
        with naming(aside), open(aside, "rb") as file:
            os.fsync(file.fileno())
        if before is not None:
            before()
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _try_to(write: Callable[[Path], object], aside: Path) -> None:
    """Call `write`; if the disk takes no more, raise the system's own error with the file's name."""
    with naming(aside):
        try:
            write(aside)
        except Exception:
            # torch and safetensors raise errors of their own at a full disk; this write raises the system's.
            with open(aside, "ab") as file:
                file.write(bytes(_PROBE))
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the name of this file to an OSError of the `with` block that has none, as at a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    write_atomically(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array in numpy's format completely or not at all."""

    def write(aside: Path) -> None:
        # np.save adds a suffix to a path.
        with open(aside, "wb") as file:
            np.save(file, array, allow_pickle=False)

    write_atomically(path, write)


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of killed processes below a folder that no other process writes to."""
    for path in folder.rglob(".*.part"):
        path.unlink(missing_ok=True)
