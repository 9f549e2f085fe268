"""List `torchvision:NAME`: data sets of one label an image, with the parts that their authors defined.

Files lie in `--loading.downloads` at torchvision's own paths, so a folder that other programs use works as well. Images
come in torchvision's form: arrays, or paths of files, which are not decoded here.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.store.content_key import fixed
from ssl_transfer.data.store.listing import NAMES, Listing
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.io.home_folder import expanded

from .download import alone
from .folder import Files
from .joined_parts import Part, join, key_of

Found = tuple[np.ndarray | list[Path], Sequence[int]]
"""Images, (N, H, W) or (N, H, W, C) or paths, and their labels."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Access to one of torchvision's classes: its arguments for each part, its images and labels, its class names."""

    parts: Mapping[str, Mapping[str, Any]]
    """Constructor arguments for each part."""
    find: Callable[[Any], Found]
    """Returns the images and labels of a constructed object."""
    classes: Callable[[Any], Sequence[str]] = lambda dataset: dataset.classes
    """Returns the class names of a constructed object."""


def _by_loader(dataset: Any) -> Found:
    """Read a class with a replaceable image loader: with `Path` as the loader a path loads as itself."""
    dataset.loader = Path
    # Sorted, as one of them lists its folder in the order of the file system.
    found = sorted(dataset[index] for index in range(len(dataset)))
    return [path for path, _ in found], [label for _, label in found]


def _by_samples(dataset: Any) -> Found:
    return [Path(path) for path, _ in dataset._samples], [label for _, label in dataset._samples]


def _by_category(folder: str, name: str) -> Callable[[Any], Found]:
    """Read a Caltech class, which numbers the images of each category from one."""

    def find(dataset: Any) -> Found:
        root = Path(dataset.root, folder)
        places = zip(dataset.y, dataset.index, strict=True)
        return [root / dataset.categories[y] / name.format(y=y + 1, i=i) for y, i in places], dataset.y

    return find


def _last_channel(dataset: Any) -> Found:
    """Read arrays (N, C, H, W) as (N, H, W, C)."""
    return dataset.data.transpose(0, 2, 3, 1), dataset.labels


_HALVES = {"train": {"train": True}, "test": {"train": False}}
_TWO = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE = {"train": {"split": "train"}, "validation": {"split": "val"}, "test": {"split": "test"}}
_ARRAYS = Entry(parts=_HALVES, find=lambda dataset: (dataset.data, dataset.targets))
_DIGITS = tuple("0123456789")
_MNIST = Entry(parts=_HALVES, find=lambda dataset: (dataset.data.numpy(), dataset.targets.numpy()))
_SIGNS = (
    *(f"speed limit {limit}" for limit in (20, 30, 50, 60, 70, 80)),
    *("end of speed limit 80", "speed limit 100", "speed limit 120", "no passing", "no passing of lorries"),
    *("priority at the next crossing", "priority road", "yield", "stop", "no vehicles", "no lorries", "no entry"),
    *("danger", "curve left", "curve right", "double curve", "bumpy road", "slippery road", "road narrows"),
    *("road works", "traffic signals", "pedestrians", "children", "bicycles", "ice or snow", "wild animals"),
    *("end of all limits", "turn right ahead", "turn left ahead", "ahead only", "straight or right"),
    *("straight or left", "keep right", "keep left", "roundabout", "end of no passing", "end of no passing of lorries"),
)
SETS = {
    "CIFAR10": _ARRAYS,
    "CIFAR100": _ARRAYS,
    "Caltech101": Entry(
        parts={"train": {}},
        find=_by_category("101_ObjectCategories", "image_{i:04d}.jpg"),
        classes=lambda dataset: dataset.categories,
    ),
    "Caltech256": Entry(
        parts={"train": {}},
        find=_by_category("256_ObjectCategories", "{y:03d}_{i:04d}.jpg"),
        classes=lambda dataset: dataset.categories,
    ),
    "Country211": Entry(parts={**_THREE, "validation": {"split": "valid"}}, find=_by_loader),
    "DTD": Entry(parts=_THREE, find=_by_loader),
    "EMNIST": Entry(
        parts={name: {"split": "balanced", **half} for name, half in _HALVES.items()},
        find=_MNIST.find,
    ),
    "EuroSAT": Entry(parts={"train": {}}, find=_by_loader),
    "FGVCAircraft": Entry(parts=_THREE, find=_by_loader),
    "FashionMNIST": _MNIST,
    "Flowers102": Entry(parts=_THREE, find=_by_loader),
    "Food101": Entry(parts=_TWO, find=_by_loader),
    "GTSRB": Entry(parts=_TWO, find=_by_samples, classes=lambda _: _SIGNS),
    "Imagenette": Entry(
        parts={"train": {"split": "train"}, "validation": {"split": "val"}},
        find=_by_loader,
        classes=lambda dataset: [names[0] for names in dataset.classes],
    ),
    "KMNIST": _MNIST,
    # torchvision's own names, "7 - seven", match no other data set of digits.
    "MNIST": replace(_MNIST, classes=lambda _: _DIGITS),
    "OxfordIIITPet": Entry(
        parts={"train": {"split": "trainval"}, "test": {"split": "test"}},
        find=lambda dataset: (dataset._images, dataset._labels),
    ),
    "STL10": Entry(
        parts={name: {"split": name} for name in ("train", "test", "unlabeled")},
        find=_last_channel,
    ),
    "SUN397": Entry(parts={"train": {}}, find=_by_loader),
    "SVHN": Entry(parts=_TWO, find=_last_channel, classes=lambda _: _DIGITS),
    "StanfordCars": Entry(parts=_TWO, find=_by_loader),
    "USPS": Entry(parts=_HALVES, find=_ARRAYS.find, classes=lambda _: _DIGITS),
}
"""Supported names. Torchvision's other sets have several labels an image, boxes, masks, or no label."""


def read(rest: str, config: LoadingConfig) -> Listing:
    """List one of torchvision's data sets, after fetching it if the user allows that.

    Raises:
        InputError: an unknown name; files that are missing or not what torchvision expects; a failed download.
    """
    source = f"torchvision:{rest}"
    names = {name.lower(): name for name in SETS}
    if rest.lower() not in names:
        raise InputError(
            f"--data {source}: not one of those with one label an image that are read; there are {', '.join(SETS)}."
            f"{did_you_mean(rest.lower(), names)}"
        )
    name = names[rest.lower()]
    entry, root = SETS[name], expanded(config.downloads, flag="--loading.downloads")
    parts: list[Part] = []
    classes: tuple[str, ...] = ()
    for part, arguments in entry.parts.items():
        dataset = _made(name, source, root, config.download, arguments)
        found = tuple(str(one) for one in entry.classes(dataset))
        if classes and found != classes:
            raise InputError(
                f"--data {source}: its parts in {root} have other classes. Remove it there, fetch it again."
            )
        classes = found
        parts.append(_part(part, entry, dataset, root, source))
    return join(parts, classes=classes, source=source)


def _made(name: str, source: str, root: Path, download: bool, arguments: Mapping[str, Any]) -> Any:
    """Construct torchvision's object for one part."""
    import torchvision.datasets

    try:
        with alone(root, name) if download else contextlib.nullcontext():
            return getattr(torchvision.datasets, name)(root, download=download, **arguments)
    except Exception as error:  # A file may be missing or broken in as many ways as there are formats.
        reason = f"{type(error).__name__}: {error}"
        if download:
            raise InputError(
                f"--data {source}: could not be fetched into {root}, or is damaged there ({reason}). Place its files "
                "there by hand, as torchvision does, or remove what is left of it there and try again."
            ) from error
        raise InputError(
            f"--data {source}: not whole in {root} ({reason}). Place its files there as torchvision does "
            "(--loading.downloads), or have them fetched with --loading.download."
        ) from error


def _part(part: str, entry: Entry, dataset: Any, root: Path, source: str) -> Part:
    items, labels = entry.find(dataset)
    if not len(items):
        raise InputError(f"--data {source}: no {part} images in {root}. Remove what is there of it and fetch it again.")
    codes = np.asarray(labels)
    if isinstance(items, np.ndarray):
        return Part(name=part, items=items, labels=codes, key=fixed(key_of(items)))
    paths = np.array([path.relative_to(root).as_posix() for path in items], NAMES)
    files = Files(root, paths)
    return Part(name=part, items=files, labels=codes, names=paths, key=files.key)
