"""Match two data sets for adaptation or joint pretraining: equal channels, values and classes.

Shapes: N images, C channels, B images of a batch, S pixels a side.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.engine.errors import InputError

from .dataset import Dataset, Moments, Pixels


class Repeated:
    """Grey images as colour: the channel is repeated three times, for pixels that are not in memory.

    Args:
        pixels: (N, 1, H, W).
    """

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels
        self.shape: Sequence[int] = (pixels.shape[0], 3, *pixels.shape[2:])
        self.dtype = pixels.dtype

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self._pixels[indices].expand(-1, 3, -1, -1)


def together(source: Dataset, target: Dataset) -> tuple[Dataset, Dataset]:
    """Match two data sets for one model; the target gets the source's class indices.

    Grey is repeated where the other has colour, with a note on that data set. Deep images get one range that covers
    both. Classes are matched by name; a target without any label takes the source's names. Stored sizes stay unchanged.

    Raises:
        InputError: a source without labels; classes that one of the two does not have, each named; channels that cannot
            be matched; values of different kinds.
    """
    if not source.classes:
        raise InputError(f"--source {source.source}: has no labels, and adaptation learns from those of the source.")
    source, target = alike(source, target)
    return source, _numbered_as(target, source)


def alike(first: Dataset, second: Dataset) -> tuple[Dataset, Dataset]:
    """Match channels and value ranges; classes stay unchanged.

    Raises:
        InputError: as for `together`, but for classes.
    """
    if first.pixels.dtype != second.pixels.dtype and first.value_range != second.value_range:
        kinds = " and ".join(
            f"{one.source} holds {str(one.pixels.dtype).removeprefix('torch.')}" for one in (first, second)
        )
        raise InputError(f"{kinds}: give both one range of values with --loading.value-range LOW HIGH.")
    channels = {first.num_channels, second.num_channels}
    if len(channels) > 1:
        if channels != {1, 3}:
            raise InputError(
                f"{first.source} has {first.num_channels} channels and the other domain {second.num_channels}, "
                f"{second.source}: only grey is made to match colour. For 8-bit images --loading.channels rgb does so."
            )
        first, second = coloured(first), coloured(second)
    low = min(first.value_range[0], second.value_range[0])
    high = max(first.value_range[1], second.value_range[1])
    return first.with_range((low, high)), second.with_range((low, high))


def coloured(dataset: Dataset) -> Dataset:
    """Repeat a grey channel to three."""
    if dataset.num_channels == 3:
        return dataset
    pixels = dataset.pixels
    moments = dataset.moments
    return replace(
        dataset,
        pixels=pixels.expand(-1, 3, -1, -1) if isinstance(pixels, Tensor) else Repeated(pixels),
        moments=moments and Moments(mean=moments.mean.repeat(3, axis=1), square=moments.square.repeat(3, axis=1)),
        notes=(*dataset.notes, f"{dataset.source}: grey, repeated to 3 channels, as the other domain has."),
    )


def _numbered_as(target: Dataset, source: Dataset) -> Dataset:
    """Renumber the target's labels by the source's classes."""
    if not target.classes or not (target.labels >= 0).any():
        return replace(target, classes=source.classes)
    if target.classes == source.classes:
        return target
    missing = [
        f"only {one.source} has {', '.join(names)}"
        for one, other in ((source, target), (target, source))
        if (names := [name for name in one.classes if name not in other.classes])
    ]
    if missing:
        raise InputError(
            f"--source {source.source} and --target {target.source}: their labels do not match: {'; '.join(missing)}. "
            "Classes are matched by name: rename them, leave those images out, or move the target's into unlabeled/."
        )
    # One more place at the end, for the images without a label: -1 stays -1.
    number = torch.tensor([*(source.classes.index(name) for name in target.classes), -1])
    return replace(target, labels=number[target.labels], classes=source.classes)


class Joined:
    """Images of two data sets one after the other, the smaller ones enlarged (bilinear) to the size of the larger.

    Args:
        first: (N, C, S, S).
        second: (M, C, S', S') of the same dtype.
    """

    def __init__(self, first: Pixels, second: Pixels) -> None:
        side = max(first.shape[2], second.shape[2])
        self._first, self._second = first, second
        self.shape: Sequence[int] = (len(first) + len(second), first.shape[1], side, side)
        self.dtype = first.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: Tensor) -> Tensor:
        joined = torch.empty(len(indices), *self.shape[1:], dtype=self.dtype)
        of_second = indices >= len(self._first)
        joined[~of_second] = enlarged(self._first[indices[~of_second]], self.shape[2])
        joined[of_second] = enlarged(self._second[indices[of_second] - len(self._first)], self.shape[2])
        return joined


def enlarged(pixels: Tensor, side: int) -> Tensor:
    """Enlarge (B, C, H, W) stored pixels of any dtype to (B, C, side, side), like the evaluation view."""
    if not len(pixels) or tuple(pixels.shape[2:]) == (side, side):
        return pixels.new_empty(0, pixels.shape[1], side, side) if not len(pixels) else pixels
    values = torch.nn.functional.interpolate(pixels.float(), size=(side, side), mode="bilinear")
    return (values if pixels.dtype.is_floating_point else values.round()).to(pixels.dtype)


def pooled(first: Dataset, second: Dataset, *, source: str) -> Dataset:
    """Add the second's pool, without labels, to the first's pool, for pretraining on both.

    Training, validation and test images are the first's. Images of the second's pool that are also among the first's
    validation and test images are left out.

    Raises:
        InputError: as for `alike`; values of different kinds.
    """
    first, second = alike(first, second)
    if first.pixels.dtype != second.pixels.dtype:
        raise InputError(f"{first.source} and {second.source} hold values of different kinds: bring both to one.")
    taken, notes = second.pool, [*first.notes, *second.notes]
    if first.contents is not None and second.contents is not None:
        held = torch.cat([first.splits["validation"], first.splits["test"]]).numpy()
        copied = torch.from_numpy(np.isin(second.contents[taken.numpy()], first.contents[held]))
        if copied.any():
            notes.append(f"{int(copied.sum())} images of {second.source} are left out: copies of {first.source}'s "
                         "validation or test images.")  # fmt: skip
        taken = taken[~copied]
    notes.append(f"{len(taken)} images of {second.source} in the pool, without their labels.")
    counts = len(first.pixels), len(second.pixels)
    both = (first.moments, second.moments)
    return replace(
        first,
        source=source,
        pixels=Joined(first.pixels, second.pixels),
        labels=torch.cat([first.labels, first.labels.new_full((counts[1],), -1)]),
        names=[*first.names, *second.names],
        splits={**first.splits, "unlabeled": torch.cat([first.splits["unlabeled"], taken + counts[0]])},
        fingerprint=f"{first.fingerprint}+{second.fingerprint}",
        contents=None
        if first.contents is None or second.contents is None
        else np.concatenate([first.contents, second.contents]),
        moments=None
        if both[0] is None or both[1] is None
        else Moments(
            mean=np.concatenate([both[0].mean, both[1].mean]),
            square=np.concatenate([both[0].square, both[1].square]),
        ),
        notes=tuple(notes),
    )
