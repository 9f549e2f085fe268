"""Read the description of a comparison (`comparison.json`), or refuse it with its first missing or impossible value."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.checksum import content_checksum
from ssl_transfer.engine.io.json_files import read_json
from ssl_transfer.evaluation.metric_properties import METRICS

DESCRIPTION_FILE = "comparison.json"


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Type of a value and of its members."""

    text: str
    """For messages."""
    holder: type
    member: "_Kind | None" = None
    """Of every item of a list, or of every value of an object."""
    least: int | None = None
    """Of a whole number; of a list, the least number of items."""
    length: int | None = None
    """Of a list."""

    def fits(self, value: object) -> bool:
        if not isinstance(value, self.holder) or isinstance(value, bool):
            return False
        if isinstance(value, int):
            return self.least is None or value >= self.least
        if isinstance(value, list) and len(value) != (len(value) if self.length is None else self.length):
            return False
        if isinstance(value, (list, dict)) and len(value) < (self.least or 0):
            return False
        members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return self.member is None or all(map(self.member.fits, members))


_TEXT = _Kind(text="a text", holder=str)
_COUNT = _Kind(text="a whole number, 0 or more", holder=int, least=0)
_POSITIVE = _Kind(text="a whole number, 1 or more", holder=int, least=1)
_OBJECT = _Kind(text="an object", holder=dict)
_TEXTS = _Kind(text="a list of texts", holder=list, member=_TEXT)
_OBJECTS = _Kind(text="an object of objects", holder=dict, member=_OBJECT)
_SIZES = _Kind(text="two whole numbers, 1 or more", holder=list, member=_POSITIVE, length=2)
_REQUIRED = {
    "data": _TEXT,
    "source": _TEXT,
    "image_size": _POSITIVE,
    "data_fingerprint": _TEXT,
    "backbones": _OBJECTS,
    "labels": _Kind(text="a list of one text or more", holder=list, member=_TEXT, least=1),
    "images": _Kind(
        text="an object with two whole numbers, 1 or more, for each budget", holder=dict, member=_SIZES, least=1
    ),
    "num_test": _POSITIVE,
    "num_pool": _COUNT,
    "seeds": _Kind(text="a list of one whole number or more", holder=list, member=_COUNT, least=1),
    "pretrain_seeds": _POSITIVE,
    "epochs": _OBJECT,
    "plan": _OBJECT,
}
_OPTIONAL = {
    "classes": _TEXTS,
    "num_classes": _POSITIVE,
    "pretrainings": _Kind(text="a list of whole numbers, 0 or more", holder=list, member=_COUNT, least=1),
    "starts": _Kind(text="an object of texts", holder=dict, member=_TEXT),
    "tune": _POSITIVE,
    "settings": _OBJECTS,
    "reconstructions": _Kind(text="an object of texts", holder=dict, member=_TEXT),
    "warnings": _TEXTS,
    "failures": _Kind(text="a list of objects", holder=list, member=_OBJECT),
    "checksums": _Kind(text="an object of texts", holder=dict, member=_TEXT),
}
"""Older versions wrote some of them."""
_FAILURE = {"folder": _TEXT, "lines": _TEXTS}
_ENVIRONMENT = {"command": _TEXT, "devices": _TEXT, "python": _TEXT, "packages": _OBJECT}


def read_description(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read `comparison.json`.

    Raises:
        InputError: the file is missing, holds no object, lacks a value that the report needs, or has an impossible one.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. {remedy}")
    found = read_json(path, remedy=remedy)
    _check(path, found, _REQUIRED, remedy)
    _check(path, found, {name: kind for name, kind in _OPTIONAL.items() if name in found}, remedy)
    for place, failure in enumerate(found.get("failures", ())):
        _check(path, failure, _FAILURE, remedy, f"failures.{place}.")
    for name, number in _numbers(found, ""):
        if not math.isfinite(number):
            raise InputError(f"{path}: {name} is {number}, but must be a finite number. {remedy}")
    for name, is_valid, constraint in (
        ("pretrainings", lambda value: len(value) == len(found["seeds"]), "one whole number for each of the seeds"),
        ("worthwhile", lambda value: isinstance(value, (int, float)) and value > 0, "a number above 0"),
        ("primary_metric", lambda value: value in METRICS, "a known metric"),
    ):
        if name in found and not is_valid(found[name]):
            raise InputError(f"{path}: {name} is {_shortened(found[name])}, but must be {constraint}. {remedy}")
    stored = found.get("checksums", {}).get(DESCRIPTION_FILE)
    if stored is not None and stored != _checksum(found):
        raise InputError(f"{path}: its content differs from its checksum: it was changed later. {remedy}")
    return found


def sealed(description: Mapping[str, Any], checksums: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of `comparison.json`: the description with the checksums of the tables and its own."""
    return {**description, "checksums": {**checksums, DESCRIPTION_FILE: _checksum(description)}}


def _checksum(description: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in description.items() if name != "checksums"}
    return content_checksum(json.dumps(kept, sort_keys=True).encode())


def read_environment(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read `environment.json`; errors as `read_description`."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. {remedy}")
    found = read_json(path, remedy=remedy)
    _check(path, found, _ENVIRONMENT, remedy)
    return found


def _check(path: Path, found: Mapping[str, Any], kinds: Mapping[str, _Kind], remedy: str, place: str = "") -> None:
    for name, kind in kinds.items():
        if name not in found:
            raise InputError(f"{path}: lacks {place}{name}, which the report needs. {remedy}")
        if not kind.fits(found[name]):
            raise InputError(f"{path}: {place}{name} is {_shortened(found[name])}, but must be {kind.text}. {remedy}")


def _numbers(value: object, place: str) -> Iterator[tuple[str, float]]:
    """List the fractions in nested objects and lists, each with its dotted name."""
    if isinstance(value, float):
        yield place, value
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        yield from _numbers(member, f"{place}.{name}" if place else str(name))


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
