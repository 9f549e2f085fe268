"""The one DATA string: `digits` or `folder:PATH` into a `Dataset`."""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..engine.errors import InputError, did_you_mean
from . import cache, splits

SOURCES = {
    "digits": "scikit-learn's 1,797 handwritten digits, 8 x 8 grey, shipped with it",
    "folder:PATH": "images in PATH/train/<class>/*, with val/, test/ and unlabeled/ beside it, or PATH/<class>/*",
}
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
UNLABELED = -1


@dataclass(frozen=True, kw_only=True)
class LoadingConfig:
    """How images are read and divided."""

    split_seed: int = 0
    """Seed of the division into training, validation and test images, where the data has none. It is not the seed of
    the runs: all of them are tested on the same images."""
    test_fraction: float = 0.25
    """Share of each class that becomes test images where the data has no test part."""
    validation_fraction: float = 0.15
    """Share of each class's training images that becomes validation images where the data has no validation part."""
    max_unreadable: float = 0.01
    """Largest share of images that may be unreadable. They are named, counted and left out; more is an error."""
    cache: Path = Path("~/.cache/ssl_transfer")
    """Folder for decoded pixels (uint8, memory-mapped), shared by runs. It can be deleted at any time."""

    def __post_init__(self) -> None:
        for name in ("test_fraction", "validation_fraction", "max_unreadable"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise InputError(f"loading.{name} {value}: it is a share, 0 or more and below 1.")
        if not (self.test_fraction and self.validation_fraction):
            raise InputError("loading.test_fraction and loading.validation_fraction must be above 0.")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images as they are stored, with labels and splits. N images, C channels, H x W pixels.

    `splits` are int64 indices into the images: `unlabeled`, `train`, `validation`, `test`; they do not overlap.
    """

    source: str
    pixels: Tensor
    """(N, C, H, W) uint8 in 0..255; of a folder, a memory-mapped file."""
    labels: Tensor
    """(N,) int64 class indices; -1 without a label."""
    names: tuple[str, ...]
    """For each image, what to call it in a message: of a folder, the path inside it."""
    classes: tuple[str, ...]
    splits: dict[str, Tensor]
    fingerprint: str
    """Changes with any pixel, label or split."""

    @property
    def pool(self) -> Tensor:
        """The images for pretraining: unlabelled and training ones, never validation or test."""
        return torch.cat([self.splits["unlabeled"], self.splits["train"]])

    @property
    def num_channels(self) -> int:
        """Channels of every image."""
        return self.pixels.shape[1]

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over the pool, of values in 0..1. Measured once."""
        return self._statistics

    @functools.cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        total = torch.zeros(self.num_channels, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for chunk in self.pool.split(256):
            values = self.pixels[chunk].to(torch.float64).div_(255.0)
            total += values.mean(dim=(2, 3)).sum(dim=0)
            squares += values.square().mean(dim=(2, 3)).sum(dim=0)
        mean = total / len(self.pool)
        deviation = (squares / len(self.pool) - mean.square()).clamp_min(0.0).sqrt()
        if bool((deviation == 0.0).any()):
            raise InputError(f"{self.source}: the images of the pool are all of one colour in some channel.")
        return tuple(mean.tolist()), tuple(deviation.tolist())

    def describe(self) -> str:
        """One line for people."""
        counts = ", ".join(f"{len(index)} {name}" for name, index in self.splits.items() if len(index))
        size = " x ".join(str(side) for side in self.pixels.shape[2:])
        return f"{self.source}: {counts}; {len(self.classes)} classes; {self.num_channels} x {size} pixels stored"


def load(source: str, *, image_size: int, config: LoadingConfig) -> Dataset:
    """The images behind a DATA string.

    Args:
        source: see `SOURCES`.
        image_size: pixels a side that models will see; photographs are stored a little larger, for crops.
        config: how to read and divide.

    Raises:
        InputError: an unknown source; a folder that is missing, empty or has one class; too many unreadable images.
    """
    if image_size < 8:
        raise InputError(f"--image-size {image_size}: at least 8 pixels.")
    kind, _, rest = source.partition(":")
    if kind == "digits" and not rest:
        return _digits(config)
    if kind == "folder":
        if not rest:
            raise InputError("--data folder: needs a path, as in folder:images/mine.")
        return _folder(Path(rest), image_size, config)
    hint = f" For a folder of images write folder:{source}" if Path(source).exists() else did_you_mean(kind, SOURCES)
    raise InputError(f"--data {source}: not a known source; there are {', '.join(SOURCES)}.{hint}")


def _digits(config: LoadingConfig) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # The values run from 0 to 16.
    pixels = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    return _assemble(
        source="digits",
        pixels=pixels,
        labels=torch.from_numpy(bunch.target.astype(np.int64)),
        names=[f"digits[{index}]" for index in range(len(pixels))],
        classes=[str(digit) for digit in range(10)],
        given=["train"] * len(pixels),
        config=config,
    )


_PARTS = {"unlabeled": "unlabeled", "train": "train", "val": "validation", "validation": "validation", "test": "test"}


def _folder(path: Path, image_size: int, config: LoadingConfig) -> Dataset:
    path = path.expanduser()
    if not path.is_dir():
        raise InputError(f"--data folder:{path}: there is no such folder (looked from {Path.cwd()}).")
    parts = {child.name: child for child in sorted(path.iterdir()) if child.is_dir() and child.name in _PARTS}
    if parts:
        _refuse_strangers(path)
    entries: list[tuple[Path, str, str]] = []
    for name, folder in (parts or {"train": path}).items():
        entries += _entries(folder, _PARTS[name])
    if not entries:
        kinds = ", ".join(sorted(SUFFIXES))
        raise InputError(f"--data folder:{path}: no images there. Expected {SOURCES['folder:PATH']}; {kinds}.")
    classes = sorted({label for _, label, _ in entries if label})
    if len(classes) == 1:
        raise InputError(
            f"--data folder:{path}: only one class, {classes[0]!r}. Comparing needs two or more subfolders, one a "
            "class; images without labels belong into unlabeled/."
        )
    labelled = {part: {label for _, label, given in entries if given == part} for part in ("validation", "test")}
    for part, found in labelled.items():
        extra = found - {label for _, label, given in entries if given == "train"}
        if extra:
            raise InputError(
                f"--data folder:{path}: {part} has classes that train has not: {', '.join(sorted(extra))}."
            )
    decoded = cache.decode(
        [file for file, _, _ in entries],
        image_size=image_size,
        folder=config.cache,
        max_unreadable=config.max_unreadable,
    )
    number = {name: index for index, name in enumerate(classes)}
    kept = [entries[index] for index in decoded.kept]
    return _assemble(
        source=f"folder:{path}",
        pixels=decoded.pixels,
        labels=torch.tensor([number.get(label, UNLABELED) for _, label, _ in kept]),
        names=[str(file.relative_to(path)) for file, _, _ in kept],
        classes=classes,
        given=[part for _, _, part in kept],
        config=config,
    )


def _refuse_strangers(path: Path) -> None:
    """A misspelt part would be left out in silence."""
    for child in sorted(path.iterdir()):
        known = child.name in _PARTS or child.name.startswith(".") or not child.is_dir()
        if not known and any(file.suffix.lower() in SUFFIXES for file in child.rglob("*")):
            raise InputError(
                f"--data folder:{path}: {child.name}/ holds images but is none of {', '.join(_PARTS)}."
                f"{did_you_mean(child.name, _PARTS)} Rename it, or move it elsewhere."
            )


def _entries(folder: Path, part: str) -> list[tuple[Path, str, str]]:
    """(file, class or "", part) of every image below a folder; the class is the first folder's name."""
    entries = []
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder).parts
        hidden = any(name.startswith(".") for name in inside)
        if file.suffix.lower() not in SUFFIXES or hidden or not file.is_file():
            continue
        if part == "unlabeled":
            entries.append((file, "", part))
        elif len(inside) > 1:
            entries.append((file, inside[0], part))
        else:
            raise InputError(
                f"{file}: an image outside a class folder. Put it into {folder}/<class>/, "
                "or without a label into unlabeled/."
            )
    return entries


def _assemble(
    *,
    source: str,
    pixels: Tensor,
    labels: Tensor,
    names: list[str],
    classes: list[str],
    given: list[str],
    config: LoadingConfig,
) -> Dataset:
    """Fill in the splits that the data does not have, from its training images, and fingerprint all of it."""
    parts = np.array(given)
    found = {name: np.flatnonzero(parts == name) for name in ("unlabeled", "train", "validation", "test")}
    for name, fraction, stream in (("test", config.test_fraction, 1), ("validation", config.validation_fraction, 2)):
        if len(found["train"]) and not len(found[name]):
            found["train"], found[name] = splits.divide(
                found["train"], labels.numpy(), classes, fraction=fraction, seed=config.split_seed, stream=stream
            )
    digest = hashlib.sha256("\n".join([*names, *classes]).encode())
    digest.update(labels.numpy().tobytes())
    for name, index in found.items():
        digest.update(name.encode() + index.astype(np.int64).tobytes())
    for chunk in pixels.split(1024):
        digest.update(chunk.numpy().tobytes())
    return Dataset(
        source=source,
        pixels=pixels,
        labels=labels.to(torch.int64),
        names=tuple(names),
        classes=tuple(classes),
        splits={name: torch.from_numpy(index.astype(np.int64)) for name, index in found.items()},
        fingerprint=digest.hexdigest()[:16],
    )
