"""Read the small JSON files of a run, or refuse them by name."""

import contextlib
import json
from pathlib import Path
from typing import Any

from ssl_transfer.engine.io.atomic import DamagedError

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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the objects in a file with one a line, such as `metrics.jsonl`.

    Raises:
        DamagedError: a line holds none.
    """
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            found.append(_object(line))
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"{path}: line {number} is damaged ({error}). {REPEAT_RUN}") from error
    return found


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """Read the undamaged lines alone; the last line of a killed run may be cut short."""
    found = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            found.append(_object(line))
    return found


def _object(content: bytes) -> dict[str, Any]:
    found = json.loads(content.decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, found {type(found).__name__}")
    return found
