"""Group images by a pattern on their names, by a table's columns, or by places on a map.

Groups are an int64 code per image, equal within a group, -1 for an image without a group.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ssl_transfer.engine.errors import InputError


def captured(names: Sequence[str] | np.ndarray, pattern: str) -> list[list[str]]:
    """Extract the pattern's capture groups: for each capture group a list with the text of each name.

    Args:
        names: of the images; in a folder the path inside it.
        pattern: a regular expression, searched for anywhere in the name; without capture groups it captures its match.

    Raises:
        InputError: the pattern is not a regular expression, or does not match some name.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--loading.group-by {pattern}: not a regular expression ({error}).") from None
    found = [expression.search(str(name)) for name in names]
    strangers = [str(name) for name, match in zip(names, found, strict=True) if match is None]
    if strangers:
        raise InputError(
            f"--loading.group-by {pattern}: does not match {len(strangers)} of {len(found)} names "
            f"({', '.join(strangers[:3])}{', ...' if len(strangers) > 3 else ''}). Every name must have it; one that "
            "stands alone can match as a whole, as in (patient\\d+|.*)."
        )
    texts = [match.groups(default="") or (match.group(),) for match in found if match is not None]
    return [list(column) for column in zip(*texts, strict=True)]


def groups_from_pattern(names: Sequence[str] | np.ndarray, pattern: str) -> np.ndarray:
    r"""Group by the capture groups of a regular expression, joined: `(patient\d+)` -> (N,) int64.

    Raises:
        InputError: see `captured`; or all images fall into one group, or every image stands alone.
    """
    columns = captured(names, pattern)
    codes = groups_from_values(["\0".join(texts) for texts in zip(*columns, strict=True)])
    number = len(np.unique(codes[codes >= 0])) + int((codes < 0).sum())
    if len(codes) > 1 and number in (1, len(codes)):
        what = "all images in one group" if number == 1 else "every image alone"
        raise InputError(
            f"--loading.group-by {pattern}: puts {what} ({len(codes)} images, for example {names[0]!s} and "
            f"{names[1]!s}), which divides nothing. The first parenthesis must hold what names the group, as in "
            "(patient[0-9]+)."
        )
    return codes


def groups_from_values(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Group by equal values, such as a table's column: (N,) int64. An image with an empty text stands alone."""
    texts = np.array([str(value).strip() for value in values], dtype=str)
    _, codes = np.unique(texts, return_inverse=True)
    empty = np.char.strip(texts, "\0 ") == ""
    return np.where(empty, -1, codes).astype(np.int64)


def groups_from_coordinates(
    x: Sequence[Any] | np.ndarray, y: Sequence[Any] | np.ndarray, *, block: float
) -> np.ndarray:
    """Group by squares of a map: images in one square of side `block` are a group, (N,) int64.

    Neighbours across an edge of a square may still lie on different sides; the larger the block, the fewer.

    Args:
        x: (N,) numbers, or texts of them.
        y: the same.
        block: in the units of the coordinates, above 0.

    Raises:
        InputError: a coordinate is no finite number; the block is not above 0.
    """
    if not block > 0.0 or not np.isfinite(block):
        raise InputError(f"--loading.block {block}: the side of a square in the coordinates' units, above 0.")
    squares = np.stack([np.floor(_numbers(values) / block) for values in (x, y)], axis=1)
    _, codes = np.unique(squares, axis=0, return_inverse=True)
    return codes.reshape(-1).astype(np.int64)


def _numbers(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Parse coordinates to (N,) float64."""
    numbers = np.empty(len(values))
    for index, value in enumerate(values):
        try:
            numbers[index] = float(value)
        except (TypeError, ValueError):
            numbers[index] = np.nan
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        examples = ", ".join(repr(str(values[index])) for index in bad[:3])
        raise InputError(
            f"--loading.group-by: {len(bad)} of {len(numbers)} coordinates are no numbers ({examples}). "
            "--loading.block needs two columns of numbers, x and y."
        )
    return numbers


def merge_groups(*groups: np.ndarray) -> np.ndarray:
    """Merge groupings: images that any of them joins, directly or through others, form a group.

    Args:
        groups: each (N,) int64.

    Returns:
        (N,) int64 in 0.., -1 where an image stands alone in all of them.
    """
    joined = [_edges(codes) for codes in groups]
    return components(np.concatenate(joined), len(groups[0]))


def _edges(codes: np.ndarray) -> np.ndarray:
    """Pair each image of a group with the next one: (M, 2) int64."""
    order = np.argsort(codes, kind="stable")
    order = order[codes[order] >= 0]
    same = codes[order[:-1]] == codes[order[1:]]
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def components(pairs: np.ndarray, size: int) -> np.ndarray:
    """Compute a graph's connected components as codes (size,) int64, -1 where alone.

    Args:
        pairs: (M, 2) int64 in 0..size-1, the edges.
        size: number of nodes.
    """
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    number, codes = connected_components(graph, directed=False)
    together = np.bincount(codes, minlength=number) > 1
    return np.where(together, np.cumsum(together) - 1, -1)[codes].astype(np.int64)


def partners(chosen: np.ndarray, groups: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return the candidates that share a group with a chosen image: int64 indices.

    Args:
        chosen: indices into the data set, such as its test images.
        groups: (N,) int64.
        candidates: indices, such as those of unlabelled images, which then must not be used for pretraining.
    """
    codes = groups[chosen]
    return candidates[np.isin(groups[candidates], codes[codes >= 0])]
