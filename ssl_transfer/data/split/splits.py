"""Split images: stratified parts that keep groups whole, and label budgets whose subsets are nested.

The images of a group must stay on one side (a patient, a scene, copies of one photograph). Groups are an int64 code per
image of the data set, equal within a group, -1 for an image without a group. `groups.py` makes them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import permutation, seed_from

from .groups import captured, groups_from_coordinates, groups_from_pattern, groups_from_values, merge_groups, partners

__all__ = [
    "LABELED",
    "VALIDATION",
    "budget",
    "budget_name",
    "captured",
    "divide",
    "groups_from_coordinates",
    "groups_from_pattern",
    "groups_from_values",
    "merge_groups",
    "parse_budget",
    "partners",
]
LABELED, VALIDATION = 1, 2
"""Streams: the labelled and the validation images of one seed are drawn independently."""


def divide(
    indices: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    fraction: float,
    seed: int,
    stream: int,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Take a share of each class, at least one image and leaving at least one: (the rest, the share), both sorted.

    The seed determines the order of a class's images. A group has the place of its first image, so that large groups
    have no advantage. Groups are taken in this order while most of their images fit into the remaining quotas of their
    classes. Without groups these are the first images of each class.

    Args:
        indices: (M,) int64, the labelled images to divide. Any without a label stay in the rest.
        labels: (N,) int64 class indices of all images; -1 without a label.
        classes: their names.
        fraction: of each class, in 0..1.
        seed: of the division.
        stream: distinguishes several divisions by one seed.
        groups: (N,) int64; None: no groups.

    Raises:
        InputError: a class has fewer than two images, or all of them in one group; groups that mix classes leave some
            class without an image on one side.
    """
    labelled = indices[labels[indices] >= 0]
    own = labels[labelled]
    # Relative, so that classes of any size take turns.
    place = np.zeros(len(labelled))
    sizes, quotas = [], []
    for number, name in enumerate(classes):
        members = np.flatnonzero(own == number)
        if len(members) < 2:
            raise InputError(
                f"Class {name!r} has {len(members)} image(s): too few to divide. Add images, or remove it."
            )
        order = permutation(seed_from(seed, stream), number, len(members)).numpy()
        place[members[order]] = np.arange(len(members)) / len(members)
        sizes.append(len(members))
        quotas.append(min(max(1, round(fraction * len(members))), len(members) - 1))
    codes = np.full(len(labelled), -1) if groups is None else groups[labelled]
    codes = np.where(codes < 0, codes.max(initial=-1) + 1 + np.arange(len(codes)), codes)
    _, first, unit = np.unique(codes, return_index=True, return_inverse=True)
    chosen = _take(unit, own, place[first], sizes, quotas, classes)
    share = np.sort(labelled[chosen[unit]])
    return np.setdiff1d(indices, share), share


def _take(
    unit: np.ndarray, own: np.ndarray, place: np.ndarray, sizes: list[int], quotas: list[int], classes: Sequence[str]
) -> np.ndarray:
    """Select the units of the share: (U,) bool.

    Args:
        unit: (M,) int64 in 0..U-1, the unit of each image: a group, or an image alone.
        own: (M,) int64, its class.
        place: (U,) float, the order in which units are visited.
        sizes: images of each class.
        quotas: images to take of each class.
        classes: their names.
    """
    pairs, counts = np.unique(unit * len(sizes) + own, return_counts=True)
    owners, kinds = np.divmod(pairs, len(sizes))
    starts = np.searchsorted(owners, np.arange(len(place) + 1)).tolist()
    contents = list(zip(kinds.tolist(), counts.tolist(), strict=True))
    taken = [0] * len(sizes)
    chosen = np.zeros(len(place), dtype=bool)

    def take(number: int) -> bool:
        """Take a unit, unless a class would have no image left."""
        content = contents[starts[number] : starts[number + 1]]
        if any(taken[kind] + count >= sizes[kind] for kind, count in content):
            return False
        for kind, count in content:
            taken[kind] += count
        chosen[number] = True
        return True

    missing = sum(quotas)
    order = np.argsort(place, kind="stable")
    for number in order.tolist():
        content = contents[starts[number] : starts[number + 1]]
        fitting = sum(min(count, max(0, quotas[kind] - taken[kind])) for kind, count in content)
        if 2 * fitting > sum(count for _, count in content) and take(number):
            missing -= fitting
            if not missing:
                break
    for kind, name in enumerate(classes):
        if taken[kind]:
            continue
        # Every group of the class is larger than twice what is to be taken: the smallest does least harm.
        candidates = owners[kinds == kind]
        if len(candidates) == 1:
            raise InputError(
                f"Class {name!r}: all of its {sizes[kind]} images belong to one group, which must stay on one side, so "
                "they cannot be divided. Group by something finer, add images of another group, or remove the class."
            )
        extent = np.bincount(unit, minlength=len(place))[candidates]
        if not any(take(number) for number in candidates[np.lexsort((place[candidates], extent))].tolist()):
            raise InputError(
                f"Class {name!r}: its {len(candidates)} groups cannot be divided, because each holds the last images "
                "of some class. Group by something finer, or add images of other groups."
            )
    return chosen


def parse_budget(text: str) -> int | float | None:
    """Parse a label budget.

    Returns:
        Images per class as an int, the share of each class as a float above 0 and below 1, or None for `all`.
    """
    if text == "all":
        return None
    digits = text.removesuffix("%")
    if digits.replace(".", "", 1).isdecimal() and digits.isascii():
        value = float(digits) / (100.0 if text.endswith("%") else 1.0)
        if 0.0 < value < 1.0:
            return value
        if digits == text and digits.isdecimal() and value >= 1.0:
            return int(digits)
    raise InputError(
        f"--labels {text}: write a number of labelled images per class (5), a share of each class above 0 and below 1 "
        "(0.1 or 10%), or `all`."
    )


def budget_name(text: str) -> str:
    """Normalise a budget for folders and tables: `5`, `0.1` for `10%` too, `all`."""
    value = parse_budget(text)
    return "all" if value is None else str(value)


def budget(
    indices: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    *,
    per_class: int | float | Sequence[int] | None,
    seed: int,
    stream: int,
) -> Tensor:
    """Take the first images of each class in the seed's order, so that smaller budgets are subsets of larger ones.

    Args:
        indices: (N,) int64, the images to choose from.
        labels: int64 labels of all images of the data set.
        classes: their names.
        per_class: images of each class; a float is a share of each, rounded, at least one image; a sequence has a
            number for every class; None takes all.
        seed: of the run.
        stream: `LABELED` or `VALIDATION`.

    Raises:
        InputError: a class of the training images is smaller than the budget. Validation takes all it has.
    """
    chosen = []
    for number, name in enumerate(classes):
        members = indices[labels[indices] == number]
        if isinstance(per_class, Sequence):
            count: int | None = per_class[number]
        elif isinstance(per_class, float):
            count = max(1, round(per_class * len(members)))
        else:
            count = per_class
            if count is not None and count > len(members) and stream == LABELED:
                raise InputError(
                    f"--labels {count}: class {name!r} has only {len(members)} training images. "
                    "Ask for fewer labels, or `all`."
                )
        order = permutation(seed_from(seed, stream), number, len(members))
        chosen.append(members[order[:count]])
    return torch.cat(chosen).sort().values
