"""Seal the result of a run: `seal.json` holds the checksums of `result.json` and of the files beside it.

`result.json` names its seal, so that a missing seal is found too. Older versions wrote none.
"""

import contextlib
import copy
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import DamagedError, write_text
from ssl_transfer.engine.io.checksum import content_checksum, file_checksum, sealed, unsealed
from ssl_transfer.engine.io.json_files import REPEAT_RUN, read_json
from ssl_transfer.engine.io.weight_files import WeightFile

SEAL_FILE, RESULT_FILE = "seal.json", "result.json"
_SEALED = (
    *("config.yaml", "environment.json", "metrics.jsonl", "predicted.npy"),
    *("backbone/backbone.json", "head/head.json"),
    *("evaluation/metrics.json", "evaluation/predictions.csv", "evaluation/predictions_validation.csv"),
)
"""Files of a finished run that feed a number or a check. Both descriptions of weights hold further checksums."""
_KEY, _FILES = "seal", "files"
REMEDY = REPEAT_RUN


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `seal.json`, then `result.json`, which marks the run as finished."""
    text = json.dumps({_KEY: SEAL_FILE, **result}, indent=2) + "\n"
    files = {name: file_checksum(folder / name) for name in _SEALED if (folder / name).is_file()}
    files[RESULT_FILE] = content_checksum(text.encode())
    write_text(folder / SEAL_FILE, json.dumps(sealed({"format": 1, _FILES: files}), indent=2) + "\n")
    write_text(folder / RESULT_FILE, text)


def held_result(folder: Path) -> dict[str, Any] | None:
    """Read the result of the run in a folder; None before its end, or without a run.

    Raises:
        DamagedError: it differs from its checksum, or its seal is missing or damaged.
    """
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    verify(folder, RESULT_FILE)
    return copy.deepcopy({name: value for name, value in _parsed_result(folder).items() if name != _KEY})


def _parsed_result(folder: Path) -> dict[str, Any]:
    """Parse `result.json`, once for each content."""
    status = (folder / RESULT_FILE).stat()
    return _parse(folder / RESULT_FILE, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _parse(path: Path, *_version: int) -> dict[str, Any]:
    return read_json(path, remedy=REMEDY)


def has_result(folder: Path) -> bool:
    """Check for the result of a finished run, whole or damaged."""
    return (folder / RESULT_FILE).is_file()


def is_sealed(folder: Path) -> bool:
    """Check for the seal of a finished run."""
    return (folder / SEAL_FILE).is_file()


def verify(folder: Path, name: str) -> None:
    """Compare a file of a run with its checksum; a run without a seal or without this file in it is accepted.

    Raises:
        DamagedError: the file differs or is missing; the seal is damaged.
    """
    expected = _checksums(folder).get(name)
    if expected is None:
        return
    path = folder / name
    if not path.is_file():
        raise DamagedError(f"{path}: missing, and {SEAL_FILE} holds its checksum. {REMEDY}")
    if file_checksum(path) != expected:
        raise DamagedError(f"{path}: differs from its checksum in {SEAL_FILE}: damaged, or changed later. {REMEDY}")


def damages(folder: Path) -> dict[str, str]:
    """Return the message of each damaged file of a finished run, by name; empty for one that has not finished.

    Damaged weights have the name of their folder, `backbone/` or `head/`.
    """
    found: dict[str, str] = {}
    if not has_result(folder):
        return found
    try:
        held_result(folder)
        names = _checksums(folder)
    except DamagedError as error:
        # Without a whole seal, no file can be verified.
        names = {}
        found[RESULT_FILE] = str(error)
        with contextlib.suppress(DamagedError):
            names = _checksums(folder)
    for name in names:
        try:
            verify(folder, name)
        except DamagedError as error:
            found[name] = str(error)
    for name in ("backbone", "head"):
        try:
            if (folder / name / f"{name}.json").is_file():
                WeightFile(folder / name, name).verify()
        except InputError as error:
            found.setdefault(f"{name}/", str(error))
    return found


def check_whole(folder: Path) -> None:
    """Refuse a finished run with damaged files.

    Raises:
        DamagedError: with the message of the first.
    """
    for message in damages(folder).values():
        raise DamagedError(message)


def _checksums(folder: Path) -> dict[str, str]:
    """Read the checksums of a seal by file name; empty for a run that has none.

    Raises:
        DamagedError: the seal is damaged; it is missing, and the result names one.
    """
    path = folder / SEAL_FILE
    if not path.is_file():
        if has_result(folder) and _KEY in _parsed_result(folder):
            raise DamagedError(f"{path}: missing, and it must hold the checksum of {RESULT_FILE}. {REMEDY}")
        return {}
    found = read_json(path, remedy=REMEDY)
    try:
        if "checksum" not in found:
            raise ValueError("it has no checksum of its own")
        return {str(name): str(value) for name, value in unsealed(found)[_FILES].items()}
    except (ValueError, KeyError, AttributeError) as error:
        raise DamagedError(f"{path}: damaged ({error}). {REMEDY}") from error
