"""Record which files a folder's commands wrote, so that no other file is replaced, moved or deleted.

A folder of ours holds `.ssl_transfer/`: `written`, a line with checksum for each file that was written there, relative
to the folder; and `unfinished/`, files that are not complete yet. A name enters the record before its file is created.
Only a name in the record may be replaced, moved or removed. Folders may be nested: the nearest record counts.
"""

import contextlib
import fcntl
import functools
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ssl_transfer.engine.errors import InputError

MARKER = ".ssl_transfer"
"""Name of the folder that makes its parent one of ours."""
LOCK = f"{MARKER}/lock"
"""Lock of a folder with one writer at a time."""
_WRITTEN, _UNFINISHED = "written", "unfinished"
_HEADER = {"format": 1, "writer": "ssl_transfer"}


class ForeignFileError(InputError):
    """Refuse to replace, move or delete a file that is not in the record of its folder."""


def is_owned(folder: Path) -> bool:
    """Check for the record of a folder of ours; a damaged one is none."""
    return _read_record(_absolute(folder)) is not None


def check_folder(folder: Path, *, flag: str = "--output") -> None:
    """Refuse a folder with files that has no record, and a file.

    Raises:
        InputError: naming the flag, the folder and one of its files.
    """
    if not os.path.lexists(folder) or is_owned(folder):
        return
    if not folder.is_dir():
        raise InputError(f"{flag} {folder}: is not a folder. Give a new or an empty folder.")
    held = next((path.name for path in sorted(folder.iterdir())), None)
    if held is not None:
        raise ForeignFileError(
            f"{flag} {folder}: holds files without a record of ssl_transfer ({held}), and none is replaced. "
            "Give a new or an empty folder."
        )


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
        if not is_owned(folder):
            _write_record(folder, adopted)
        _sweep(folder)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise InputError(f"{flag} {folder}: cannot be written ({error.strerror}). Give another folder.") from error


@contextlib.contextmanager
def owned_folder(folder: Path, *, flag: str = "--output") -> Iterator[None]:
    """Own a folder for the `with` block; if nothing was written there, remove the folders that this created."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    own_folder(folder, flag=flag)
    try:
        yield
    finally:
        if not _recorded(_absolute(folder)) and {path.name for path in folder.iterdir()} == {MARKER}:
            shutil.rmtree(folder / MARKER)
            for path in created:
                # Another process may have put files there.
                with contextlib.suppress(OSError):
                    path.rmdir()


def claim(path: Path, *, replaces: bool = False) -> None:
    """Enter a file into the record of its folder before it is created, replaced or appended to.

    Outside of folders of ours, a new file is allowed.

    Args:
        path: the file.
        replaces: the user has allowed to replace a file that is in no record.

    Raises:
        ForeignFileError: the file exists and is in no record, or is a link to another place.
    """
    owner = owner_of(path)
    exists = os.path.lexists(path) and not replaces
    if owner is None:
        if exists:
            raise ForeignFileError(_refusal(path, "replaced"))
        return
    name = _relative(path, owner)
    if name in _recorded(owner):
        return
    if exists:
        raise ForeignFileError(_refusal(path, "replaced"))
    _append(owner, name)


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


def is_recorded(path: Path) -> bool:
    """Check whether the record of its folder holds a file."""
    owner = owner_of(path)
    return owner is not None and _relative(path, owner) in _recorded(owner)


def owner_of(path: Path) -> Path | None:
    """Return the nearest folder of ours above a path; None where there is none."""
    return next((parent for parent in _absolute(path).parents if is_owned(parent)), None)


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


def _sweep(folder: Path) -> None:
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


def _check_recorded(path: Path, done: str) -> None:
    if not is_recorded(path):
        raise ForeignFileError(_refusal(path, done))


def _refusal(path: Path, done: str) -> str:
    return (
        f"{path}: exists, and no record shows that ssl_transfer wrote it, so it is not {done}. "
        "Move it away, or give another --output."
    )


def _absolute(path: Path) -> Path:
    # Without `..`, so that the parents are the folders above it.
    return Path(os.path.abspath(path))


def _relative(path: Path, owner: Path) -> str:
    return _absolute(path).relative_to(owner).as_posix()


def _recorded(owner: Path) -> frozenset[str]:
    return _read_record(owner) or frozenset()


def _read_record(owner: Path) -> frozenset[str] | None:
    """Read the names in the record of a folder; None where there is none, or a damaged one."""
    record = owner / MARKER / _WRITTEN
    try:
        found = os.stat(record)
        return _parsed(record, found.st_ino, found.st_size, found.st_mtime_ns)
    except (OSError, ValueError):
        return None


@functools.lru_cache(maxsize=64)
def _parsed(record: Path, *_version: int) -> frozenset[str]:
    header, *lines = record.read_text(encoding="utf-8").splitlines()
    if header != _line(_HEADER):
        raise ValueError("not a record")
    names = [json.loads(line.partition(" ")[2]) for line in lines]
    if lines != [_line(name) for name in names]:
        raise ValueError("a line differs from its checksum")
    return frozenset(names)


def _line(content: object) -> str:
    """Return a line of a record: the CRC-32 of a JSON text, and the text."""
    text = json.dumps(content)
    return f"{zlib.crc32(text.encode()):08x} {text}"


def _append(owner: Path, name: str) -> None:
    # Appended in one call, so that processes do not overwrite each other's lines.
    with open(owner / MARKER / _WRITTEN, "ab", buffering=0) as file:
        end = file.tell()
        try:
            file.write(f"{_line(name)}\n".encode())
            os.fsync(file.fileno())
        except OSError:
            # A full disk may have taken a part of the line.
            file.truncate(end)
            raise


def _write_record(folder: Path, adopted: Iterable[Path]) -> None:
    """Write the record of a folder that has none, whole or not at all."""
    place = folder / MARKER
    place.mkdir(parents=True, exist_ok=True)
    lines = [_HEADER, *sorted(_relative(path, _absolute(folder)) for path in adopted)]
    aside = place / f"{_WRITTEN}.{uuid.uuid4().hex[:8]}"
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write("".join(f"{_line(line)}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, place / _WRITTEN)
    finally:
        aside.unlink(missing_ok=True)
