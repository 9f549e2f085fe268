"""Two data sets as two domains of one task: the same classes in the same order, as many channels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..engine.errors import InputError
from .dataset import UNLABELED, Dataset, Moments, Pixels


def together(source: Dataset, target: Dataset) -> tuple[Dataset, Dataset]:
    """Both as one network takes them: the target's classes in the source's order, grey repeated to colour.

    Raises:
        InputError: a source without labels, classes of other names, numbers of channels that cannot be made equal.
    """
    if not source.classes:
        raise InputError(f"--source {source.source}: has no labels, and adaptation learns from those of the source.")
    # A target without any label takes the names as they are.
    target = _renamed(source, target) if target.classes else replace(target, classes=source.classes)
    channels = max(source.num_channels, target.num_channels)
    return _with_channels(source, channels), _with_channels(target, channels)


def _renamed(source: Dataset, target: Dataset) -> Dataset:
    lacking, unknown = (sorted(set(one) - set(other)) for one, other in _both_ways(source.classes, target.classes))
    if lacking or unknown:
        differences = [
            f"{what} {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
            for what, names in ((f"only {source.source} has", lacking), (f"only {target.source} has", unknown))
            if names
        ]
        raise InputError(
            f"--source {source.source} and --target {target.source}: their labels do not match: "
            f"{'; '.join(differences)}. Classes are matched by name: rename them, or leave those images out."
        )
    order = torch.tensor([source.classes.index(name) for name in target.classes])
    known = target.labels >= 0
    labels = torch.where(known, order[target.labels.clamp_min(0)], UNLABELED)
    return replace(target, labels=labels, classes=source.classes)


def _both_ways(first: Sequence[str], second: Sequence[str]) -> tuple[tuple[Sequence[str], Sequence[str]], ...]:
    return (first, second), (second, first)


def _with_channels(dataset: Dataset, channels: int) -> Dataset:
    if dataset.num_channels == channels:
        return dataset
    if dataset.num_channels != 1:
        raise InputError(
            f"{dataset.source} has {dataset.num_channels} channels and the other domain {channels}. "
            "For 8-bit images --loading.channels grey or rgb makes them so."
        )
    moments = dataset.moments
    if moments is not None:
        moments = Moments(mean=moments.mean.repeat(channels, axis=1), square=moments.square.repeat(channels, axis=1))
    note = f"{dataset.source}: grey, repeated to {channels} channels, as the other domain has."
    return replace(dataset, pixels=Repeated(dataset.pixels, channels), moments=moments, notes=(*dataset.notes, note))


@dataclass(frozen=True)
class Repeated:
    """Grey pixels read as `channels` equal ones."""

    pixels: Pixels
    channels: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return (len(self.pixels), self.channels, *self.pixels.shape[2:])

    @property
    def dtype(self) -> torch.dtype:
        """That of the pixels."""
        return self.pixels.dtype

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.pixels[indices].expand(-1, self.channels, -1, -1)
