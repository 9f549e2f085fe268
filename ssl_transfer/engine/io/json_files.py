"""Read the small JSON files of a run, or refuse them by name."""

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

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


class Line(NamedTuple):
    """Hold a line of a log."""

    number: int
    """From 1."""
    content: dict[str, Any]
    """Empty where the line holds no object."""
    is_whole: bool
    """It is as it was written."""


def lines_of(path: Path) -> list[Line]:
    """Read the lines of a log, damaged ones too; a last line that a kill cut off is left out."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        content: dict[str, Any] = {}
        is_whole = False
        with contextlib.suppress(ValueError, RecursionError):
            content = _object(line)
            content, is_whole = unsealed(content), True
        if is_whole or line.endswith(b"\n"):
            found.append(Line(number, content, is_whole))
    return found


def _object(content: bytes) -> dict[str, Any]:
    found = json.loads(content.decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, found {type(found).__name__}")
    return found
