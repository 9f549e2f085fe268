"""Join parts of a data set that a library lists one by one."""

import bisect
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ssl_transfer.data.dataset import PARTS, UNLABELED
from ssl_transfer.data.store.content_key import Key
from ssl_transfer.data.store.image_files import Encoded
from ssl_transfer.data.store.listing import NAMES, Listing, Lookup

from .folder import check_classes


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images of one part. N of them."""

    name: str
    """One of `PARTS`."""
    items: Sequence[Encoded] | np.ndarray
    """Encoded images, or all of them in an array."""
    labels: np.ndarray
    """(N,) of whole numbers: class indices; -1 without a label."""
    key: Key
    """Computes a text that changes with the content of any image."""
    names: np.ndarray | None = None
    """(N,) of `NAMES`; None: names are made from the positions."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """Further columns by which images may be grouped, (N,) of `NAMES` each."""


def join(parts: Sequence[Part], *, classes: tuple[str, ...], source: str) -> Listing:
    """Join parts to one listing, in order. Training images without a label become unlabelled ones.

    Raises:
        InputError: one class alone; classes that only validation or test has.
    """
    starts = np.cumsum([0, *(len(part.items) for part in parts)]).tolist()

    def item(index: int) -> Encoded:
        number = bisect.bisect_right(starts, index) - 1
        return parts[number].items[index - starts[number]]

    labels = np.concatenate([part.labels.astype(np.int64) for part in parts])
    labels[labels < 0] = UNLABELED
    numbers = np.repeat([PARTS.index(part.name) for part in parts], np.diff(starts)).astype(np.int8)
    numbers[(labels == UNLABELED) & (numbers == PARTS.index("train"))] = PARTS.index("unlabeled")
    labels[numbers == PARTS.index("unlabeled")] = UNLABELED
    check_classes(labels, classes, numbers, source)
    return Listing(
        items=Lookup(starts[-1], item),
        key=lambda config: hashlib.sha256(" ".join(part.key(config) for part in parts).encode()).hexdigest(),
        names=np.concatenate([counted(part) if part.names is None else part.names for part in parts]),
        labels=labels,
        classes=classes,
        parts=numbers,
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
    )


def counted(part: Part) -> np.ndarray:
    """Make names from the part and the positions."""
    return np.array([f"{part.name}[{index}]" for index in range(len(part.items))], NAMES)


def key_of(images: np.ndarray) -> str:
    """Hash the values of images in memory, (N, ...) of any dtype."""
    digest = hashlib.sha256(f"{images.shape} {images.dtype}".encode())
    # Some libraries turn the axes without moving the values: a copy of all at once could be gigabytes.
    for start in range(0, len(images), 1024):
        digest.update(images[start : start + 1024].tobytes())
    return digest.hexdigest()
