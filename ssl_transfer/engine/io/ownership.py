"""Replace, move and delete only files that the record of their folder holds.

A folder of ours has a record (`ownership_record.py`). A name enters the record before its file is created. Only a name
in the record may be replaced, moved or removed. Folders may be nested: the nearest record counts.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ssl_transfer.engine.errors import InputError

from .file_errors import is_full, naming
from .ownership_record import MARKER, RECORD, absolute, enter, is_owned, is_recorded, link_below, recorded, write_record
from .unfinished_files import sweep

__all__ = [
    *("LOCK", "MARKER", "RECORD", "ForeignFileError", "check_folder", "claim", "is_owned", "is_recorded", "move"),
    *("own_folder", "owned_folder", "remove", "remove_folder"),
]
LOCK = f"{MARKER}/lock"
"""Lock of a folder with one writer at a time."""


class ForeignFileError(InputError):
    """Refuse to replace, move or delete a file that is not in the record of its folder."""


def check_folder(folder: Path, *, flag: str = "--output") -> None:
    """Refuse a folder with files that has no record, and a file.

    Raises:
        InputError: naming the flag, the folder and one of its files.
    """
    if not os.path.lexists(folder) or is_owned(folder):
        return
    if not folder.is_dir():
        raise InputError(f"{flag} {folder}: is not a folder. Give a new or an empty folder.")
    problem = ""
    # A process that was killed when it had just begun leaves a marker without a record.
    held = next((path.name for path in sorted(folder.iterdir()) if path.name != MARKER), None)
    if (folder / RECORD).is_file():
        problem = f"the record {RECORD} in it is damaged, so that none of its files is replaced"
    elif held is not None:
        problem = f"holds files without a record of ssl_transfer ({held}), and none is replaced"
    # Another process may have written its record meanwhile.
    if problem and not is_owned(folder):
        raise ForeignFileError(f"{flag} {folder}: {problem}. Give a new or an empty folder.")


def own_folder(folder: Path, *, flag: str = "--output", adopted: Iterable[Path] = ()) -> None:
    """Create a folder with its record, or open that of an earlier command; remove unfinished files of killed ones.

    Args:
        folder: new, empty, or with a record.
        flag: names the folder in messages.
        adopted: files of an older version, which wrote no records. A folder with such files is accepted.

    Raises:
        InputError: the folder holds other files, is a file, or cannot be written.
    """
    adopted = list(adopted)
    if not adopted:
        check_folder(folder, flag=flag)
    try:
        with naming(folder):
            if not is_owned(folder):
                write_record(folder, adopted)
            sweep(folder)
    except OSError as error:
        if is_full(error):
            raise
        raise InputError(f"{flag} {folder}: cannot be written ({error.strerror}). Give another folder.") from error


@contextlib.contextmanager
def owned_folder(folder: Path, *, flag: str = "--output") -> Iterator[None]:
    """Own a folder for the `with` block; if nothing was written there, remove the folders that this created."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    own_folder(folder, flag=flag)
    try:
        yield
    finally:
        if not recorded(absolute(folder)) and {path.name for path in folder.iterdir()} == {MARKER}:
            shutil.rmtree(folder / MARKER)
            for path in created:
                # Another process may have put files there.
                with contextlib.suppress(OSError):
                    path.rmdir()


def claim(path: Path, *, replaces: bool = False) -> None:
    """Enter a file into the record of its folder before it is created, replaced or appended to.

    Outside of folders of ours, a new file is allowed, and is ours until the process ends.

    Args:
        path: the file.
        replaces: the user has allowed to replace a file that is in no record.

    Raises:
        ForeignFileError: the file exists and is in no record.
        DamagedRecordError: the record of its folder is damaged.
    """
    if is_recorded(path):
        return
    if os.path.lexists(path) and not replaces:
        raise ForeignFileError(_refusal(path, "replaced"))
    enter(path)


def remove(path: Path) -> None:
    """Remove a file that the record of its folder holds; a missing file is no error.

    Raises:
        ForeignFileError: the file is in no record.
    """
    if os.path.lexists(path):
        _check_recorded(path, "deleted")
        path.unlink()


def move(path: Path, target: Path) -> None:
    """Rename a file of the record to a name that is free or in the record too.

    Raises:
        ForeignFileError: the file, or one at the new name, is in no record.
    """
    _check_recorded(path, "moved")
    claim(target)
    os.replace(path, target)


def remove_folder(folder: Path) -> None:
    """Remove the recorded files below a folder, and the folders that are empty then; other files stay.

    Folders with a record of their own are part of it; a missing folder is no error.
    """
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in sorted(folder.iterdir()):
        if path.name == MARKER and is_owned(folder):
            continue
        if path.is_dir() and not path.is_symlink():
            remove_folder(path)
        elif is_recorded(path):
            path.unlink()
    if is_owned(folder) and {path.name for path in folder.iterdir()} == {MARKER}:
        shutil.rmtree(folder / MARKER)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _check_recorded(path: Path, done: str) -> None:
    if not is_recorded(path):
        raise ForeignFileError(_refusal(path, done))


def _refusal(path: Path, done: str) -> str:
    for owner in absolute(path).parents:
        if (owner / RECORD).is_file() and (link := link_below(owner, path)):
            return f"{path}: lies behind the link {link}, so it is not {done}. Replace the link by a folder."
    return (
        f"{path}: exists, and no record shows that ssl_transfer wrote it, so it is not {done}. "
        "Move it away, or give another --output."
    )
