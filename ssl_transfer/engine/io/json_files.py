"""Read the small JSON files of a run, or refuse them by name."""

import json
from pathlib import Path
from typing import Any

from ssl_transfer.engine.io.atomic import DamagedError
from ssl_transfer.engine.io.checksum import sealed, unsealed

REPEAT_RUN = (
    "Repeat the run with --fresh, or its comparison with --retry; both keep the damaged files under another name."
)


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        DamagedError: the file holds none; the message ends with the remedy.
    """
    try:
        return _object(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: damaged ({error}). {remedy}") from error


def line_of(record: dict[str, Any]) -> str:
    """Return a line of a log: the object with its checksum, and the end of the line."""
    return f"{json.dumps(sealed(record))}\n"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the objects in a file with one a line, such as `metrics.jsonl`.

    Raises:
        DamagedError: a line holds none, or differs from its checksum.
    """
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            found.append(unsealed(_object(line)))
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"{path}: line {number} is damaged ({error}). {REPEAT_RUN}") from error
    return found


def whole_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Read the undamaged lines of a log; the last line of a killed run may be cut short.

    Returns:
        The objects, and the numbers of damaged lines, from 1. A last line without its end is in neither.
    """
    found, damaged = [], []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        try:
            found.append(unsealed(_object(line)))
        except (ValueError, RecursionError):
            if line.endswith(b"\n"):
                damaged.append(number)
    return found, damaged


def _object(content: bytes) -> dict[str, Any]:
    found = json.loads(content.decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, found {type(found).__name__}")
    return found
