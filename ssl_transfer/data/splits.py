"""Dividing images: stratified parts, and label budgets whose subsets are nested."""

import numpy as np
import torch
from torch import Tensor

from ..engine.errors import InputError
from ..engine.randomness import permutation, seed_from

LABELED, VALIDATION = 1, 2
"""Streams: the labelled and the validation images of one seed are drawn independently."""


def divide(
    indices: np.ndarray, labels: np.ndarray, classes: list[str], *, fraction: float, seed: int, stream: int
) -> tuple[np.ndarray, np.ndarray]:
    """Take a share of each class, at least one image and leaving at least one: (the rest, the share), both sorted."""
    taken = []
    for number, name in enumerate(classes):
        members = indices[labels[indices] == number]
        if len(members) < 2:
            raise InputError(
                f"Class {name!r} has {len(members)} image(s): too few to divide. Add images, or remove it."
            )
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        order = permutation(seed_from(seed, stream), number, len(members)).numpy()
        taken.append(members[order[:count]])
    share = np.sort(np.concatenate(taken))
    return np.setdiff1d(indices, share), share


def parse_budget(text: str) -> int | None:
    """A label budget as the user writes it: images per class as a number, or None for `all`."""
    if text == "all":
        return None
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--labels {text}: write a number of labelled images per class (1 or more), or `all`.")
    return int(text)


def budget(
    indices: Tensor, labels: Tensor, classes: tuple[str, ...], *, per_class: int | None, seed: int, stream: int
) -> Tensor:
    """The first `per_class` images of each class in an order that the seed gives, so smaller budgets lie inside larger.

    Args:
        indices: (N,) int64, the images to choose from.
        labels: int64 labels of all images of the data set.
        classes: their names.
        per_class: None takes all.
        seed: of the run.
        stream: `LABELED` or `VALIDATION`.

    Raises:
        InputError: a class of the training images is smaller than the budget. Validation takes what there is.
    """
    chosen = []
    for number, name in enumerate(classes):
        members = indices[labels[indices] == number]
        if per_class is not None and per_class > len(members) and stream == LABELED:
            raise InputError(
                f"--labels {per_class}: class {name!r} has only {len(members)} training images. "
                "Ask for fewer labels, or `all`."
            )
        order = permutation(seed_from(seed, stream), number, len(members))
        chosen.append(members[order[:per_class]])
    return torch.cat(chosen).sort().values
