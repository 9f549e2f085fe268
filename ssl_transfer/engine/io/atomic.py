"""Write files that are complete or absent, whatever interrupts the writing."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ssl_transfer.engine.errors import InputError

_PROBE = 1 << 16
"""Bytes that are written where a library failed, to find out whether anything can be."""


class DamagedError(InputError):
    """A file that is not as it was written."""


def write_atomically(path: Path, write: Callable[[Path], object], *, before: Callable[[], None] | None = None) -> None:
    """Let `write` fill a file beside `path`, flush it to the disk, then rename it into place.

    Whoever reads `path` sees the old content or the new, whatever happens in between.

    Args:
        path: the file.
        write: fills the file of the name that it is given.
        before: called when the new file is whole on the disk, to move the old one out of its way.
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
    """Call `write`; where it fails because nothing can be written, raise the system's own reason, with the file."""
    with naming(aside):
        try:
            write(aside)
        except Exception:
            # torch and safetensors have words of their own for a full disk; one more write gets the system's.
            with open(aside, "ab") as file:
                file.write(bytes(_PROBE))
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """For the `with` block: an OSError that names no file, as of a disk that is full, gets the name of this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_atomically(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array in numpy's format whole or not at all."""

    def write(aside: Path) -> None:
        # numpy would add a suffix to a name.
        with open(aside, "wb") as file:
            np.save(file, array, allow_pickle=False)

    write_atomically(path, write)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes were writing in a folder and those below it. Nobody else may be writing there."""
    for path in folder.rglob(".*.part"):
        path.unlink(missing_ok=True)
