"""Hold a source's list of images before any pixel is decoded. N images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssl_transfer.data.dataset import PARTS
from ssl_transfer.engine.errors import InputError

from .content_key import Key
from .image_files import Encoded

NAMES = np.dtypes.StringDType()
"""Dtype of arrays of names: a million of them in a list of Python's strings would take three times the memory."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Images of a source, with the source's labels and parts."""

    items: Sequence[Encoded]
    """Encoded images, or arrays of them, looked up one by one."""
    key: Key
    """Computes a text that changes with the content of any image."""
    names: np.ndarray
    """(N,) of `NAMES`: name of each image in messages."""
    labels: np.ndarray
    """(N,) int64 class indices; -1 without a label."""
    classes: tuple[str, ...]
    parts: np.ndarray
    """(N,) int8: positions in `PARTS`. Missing test and validation images are split off the training images."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """Further columns of a table of labels, (N,) each, by which images may be grouped."""


def part_number(text: str, source: str) -> int:
    """Return the position in `PARTS` of a part's name or alias, such as train, val, valid, test, unlabeled."""
    aliases = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train"}
    aliases |= {"unlabelled": "unlabeled", "testing": "test"}
    name = aliases.get(text.strip().lower(), text.strip().lower())
    if name not in PARTS:
        raise InputError(f"--data {source}: {text!r} is not a part; there are train, val, test and unlabeled.")
    return PARTS.index(name)


class Lookup(Sequence[Encoded]):
    """Items that are computed one by one: `function(index)` for each index below `count`."""

    def __init__(self, count: int, function: Callable[[int], Encoded]) -> None:
        self._count, self._function = count, function

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._function(index)
