"""Read and write the record of the files that were written to a folder: `.ssl_transfer/written`.

One line a file: the CRC-32 of a JSON text, and the text, a name relative to the folder. A record with a damaged line
is none.
"""

import contextlib
import fcntl
import json
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from ssl_transfer.engine.errors import InputError

from .file_errors import naming

MARKER = ".ssl_transfer"
"""Name of the folder that makes its parent one of ours."""
_WRITTEN = "written"
RECORD = f"{MARKER}/{_WRITTEN}"
"""Record of a folder."""
_CREATED: set[Path] = set()
"""Files of this process that lie below no record."""
_HEADER = {"format": 1, "writer": "ssl_transfer"}


class DamagedRecordError(InputError):
    """Refuse to change files of a folder whose record is damaged."""


def is_owned(folder: Path) -> bool:
    """Check for the record of a folder of ours; a damaged one is none."""
    return read_record(absolute(folder)) is not None


def owner_of(path: Path) -> Path | None:
    """Return the nearest folder above a path that has a record, whole or damaged; None where there is none.

    A folder that is reached through a link below its owner is not part of it.
    """
    found = next((parent for parent in absolute(path).parents if (parent / MARKER / _WRITTEN).is_file()), None)
    return None if found is None or link_below(found, path) is not None else found


def link_below(owner: Path, path: Path) -> Path | None:
    """Return the first link between a folder and a path below it; None where there is none."""
    between = [parent for parent in absolute(path).parents if owner in parent.parents]
    return next((parent for parent in reversed(between) if parent.is_symlink()), None)


def is_recorded(path: Path) -> bool:
    """Check whether the record of its folder holds a file, or this process created it outside of any."""
    owner = owner_of(path)
    if owner is None:
        return absolute(path) in _CREATED
    name = relative_name(path, owner)
    # Unfinished files lie beside the record, and are ours without an entry.
    return name.startswith(f"{MARKER}/") or name in recorded(owner)


def enter(path: Path) -> None:
    """Enter a file into the record of its folder; outside of any, remember it until the process ends."""
    owner = owner_of(path)
    if owner is None:
        _CREATED.add(absolute(path))
        return
    with naming(path):
        _append(owner, relative_name(path, owner))


def absolute(path: Path) -> Path:
    """Return the absolute path without `..`, so that the parents are the folders above it."""
    return Path(os.path.abspath(path))


def relative_name(path: Path, owner: Path) -> str:
    """Return the name of a file in the record of a folder."""
    return absolute(path).relative_to(owner).as_posix()


def recorded(owner: Path) -> AbstractSet[str]:
    """Return the names in the record of a folder.

    Raises:
        DamagedRecordError: the record is damaged.
    """
    found = read_record(owner)
    if found is None:
        raise DamagedRecordError(
            f"{owner / MARKER / _WRITTEN}: damaged, so that no file in {owner} is replaced. Move {owner} away, or "
            "give another folder."
        )
    return found


def read_record(owner: Path) -> AbstractSet[str] | None:
    """Read the names in the record of a folder; None where there is none, or a damaged one.

    A last line without its end is left out: a power cut stopped it, and its file was not created.
    """
    record = owner / MARKER / _WRITTEN
    try:
        with open(record, "rb") as file:
            status = os.fstat(file.fileno())
            version = (status.st_ino, status.st_size, status.st_mtime_ns)
            held = _READ.get(record)
            if held is None or held.version != version:
                held = _READ[record] = _Read(version=version, names=_parsed(file.read()))
    except OSError:
        return None
    return held.names


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A record that was read before: it is parsed again only when it has changed."""

    version: tuple[int, int, int]
    names: AbstractSet[str] | None


_READ: dict[Path, _Read] = {}


def _parsed(content: bytes) -> AbstractSet[str] | None:
    """Parse a record; None where a whole line of it is damaged."""
    try:
        header, *lines, _ = content.decode("utf-8", errors="replace").split("\n")
        names = [json.loads(line.partition(" ")[2]) for line in lines]
    except (ValueError, RecursionError):
        return None
    return set(names) if [header, *lines] == [_line(one) for one in (_HEADER, *names)] else None


def _line(content: object) -> str:
    """Return a line of a record: the CRC-32 of a JSON text, and the text."""
    text = json.dumps(content)
    return f"{zlib.crc32(text.encode()):08x} {text}"


def _append(owner: Path, name: str) -> None:
    """Enter a name into the record of a folder, flushed to the disk."""
    place = owner / MARKER
    with locked(place, wait=True), open(place / _WRITTEN, "r+b", buffering=0) as file:
        held = file.read()
        end = held.rfind(b"\n") + 1
        try:
            # A line that a power cut stopped is overwritten.
            file.truncate(end)
            file.seek(end)
            file.write(f"{_line(name)}\n".encode())
            os.fsync(file.fileno())
        except OSError:
            # A full disk may have taken a part of the line.
            file.truncate(end)
            raise


def write_record(folder: Path, adopted: Iterable[Path]) -> None:
    """Write the record of a folder that has none, whole or not at all; of several processes, one writes it."""
    place = folder / MARKER
    place.mkdir(parents=True, exist_ok=True)
    with locked(place, wait=True):
        if is_owned(folder):
            return
        lines = [_HEADER, *sorted(relative_name(path, absolute(folder)) for path in adopted)]
        aside = place / f"{_WRITTEN}.{uuid.uuid4().hex[:8]}"
        try:
            with open(aside, "w", encoding="utf-8") as file:
                file.write("".join(f"{_line(line)}\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, place / _WRITTEN)
        finally:
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool, shared: bool = False) -> Iterator[bool]:
    """Lock a folder for the `with` block; yield False where another has it, or the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield try_lock(descriptor, wait=wait, shared=shared)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, *, wait: bool, shared: bool = False) -> bool:
    """Lock an open file or folder until it is closed; return False where that is not possible."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
