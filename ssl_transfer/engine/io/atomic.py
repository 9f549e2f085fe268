"""Write files that are complete or absent after any interruption."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ssl_transfer.engine.errors import InputError

from . import ownership
from .file_errors import naming
from .unfinished_files import beside, unfinished

_PROBE = 1 << 16
"""Bytes of a trial write after a library failed, which gets the system's error."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""Errors of file systems without hard links."""


class DamagedError(InputError):
    """Refuse a file that differs from what was written."""


def write_atomically(path: Path, write: Callable[[Path], object], *, before: Callable[[], None] | None = None) -> None:
    """Let `write` fill an unfinished file, flush it to the disk, then rename it to `path`.

    A reader of `path` sees the old content or the new.

    Args:
        path: final place of the file.
        write: fills the file at the path that it is called with.
        before: called when the new file is complete on the disk, to move the old one away.

    Raises:
        ForeignFileError: a file of another program lies at `path`.
    """
    ownership.claim(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path) as aside:
        with system_errors(aside):
            write(aside)
        with naming(aside), open(aside, "rb") as file:
            os.fsync(file.fileno())
        if before is not None:
            before()
        put_in_place(aside, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def put_in_place(aside: Path, path: Path, *, is_new: bool = False) -> None:
    """Rename a complete file to its final place, or copy it there first, where that is on another disk.

    Args:
        aside: the complete file.
        path: its final place.
        is_new: replace no file.

    Raises:
        FileExistsError: with `is_new`, there is a file at the place.
    """
    try:
        if is_new:
            _link(aside, path)
        else:
            os.replace(aside, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with beside(path) as copy:
            shutil.copyfile(aside, copy)
            with open(copy, "rb") as file:
                os.fsync(file.fileno())
            put_in_place(copy, path, is_new=is_new)


def _link(aside: Path, path: Path) -> None:
    """Give a complete file its final name too, if that is free; rename it where a file system has no hard links."""
    try:
        os.link(aside, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.replace(aside, path)


@contextlib.contextmanager
def system_errors(aside: Path) -> Iterator[None]:
    """Raise the system's own error in place of a library's, where the disk takes no more; name the file in it.

    torch and safetensors raise errors of their own at a full disk. A trial write to `aside` then raises the system's.
    """
    with naming(aside):
        try:
            yield
        except Exception:
            with open(aside, "ab") as file:
                file.write(bytes(_PROBE))
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


def append_text(path: Path, text: str) -> None:
    """Append to a text file of ours, without following a link.

    Raises:
        ForeignFileError: a file of another program lies at `path`.
    """
    ownership.claim(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o666), "a", encoding="utf-8") as file:
        file.write(text)
