"""Read and write the record of the files that were written to a folder: `.ssl_transfer/written`.

One line a file: the CRC-32 of a JSON text, and the text, a name relative to the folder. A record with a damaged line is
none.
"""

import functools
import json
import os
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path

MARKER = ".ssl_transfer"
"""Name of the folder that makes its parent one of ours."""
_WRITTEN = "written"
_HEADER = {"format": 1, "writer": "ssl_transfer"}


def is_owned(folder: Path) -> bool:
    """Check for the record of a folder of ours; a damaged one is none."""
    return read_record(absolute(folder)) is not None


def owner_of(path: Path) -> Path | None:
    """Return the nearest folder of ours above a path; None where there is none."""
    return next((parent for parent in absolute(path).parents if is_owned(parent)), None)


def is_recorded(path: Path) -> bool:
    """Check whether the record of its folder holds a file."""
    owner = owner_of(path)
    return owner is not None and relative_name(path, owner) in recorded(owner)


def absolute(path: Path) -> Path:
    """Return the absolute path without `..`, so that the parents are the folders above it."""
    return Path(os.path.abspath(path))


def relative_name(path: Path, owner: Path) -> str:
    """Return the name of a file in the record of a folder."""
    return absolute(path).relative_to(owner).as_posix()


def recorded(owner: Path) -> frozenset[str]:
    """Return the names in the record of a folder; none without a whole record."""
    return read_record(owner) or frozenset()


def read_record(owner: Path) -> frozenset[str] | None:
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


def append(owner: Path, name: str) -> None:
    """Enter a name into the record of a folder, flushed to the disk."""
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


def write_record(folder: Path, adopted: Iterable[Path]) -> None:
    """Write the record of a folder that has none, whole or not at all."""
    place = folder / MARKER
    place.mkdir(parents=True, exist_ok=True)
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
