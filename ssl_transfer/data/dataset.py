"""Define the data set of every stage: stored pixels, labels, splits, and reading in batches."""

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.data.loading_config import Range
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.printable import one_line

PARTS = ("unlabeled", "train", "validation", "test")
UNLABELED = -1
EIGHT_BITS: Range = (0.0, 255.0)
LEAST_SHARED, MOST_SHARED = 0.1, 0.5
"""Limits on the shared portion of two value ranges. Below the first the depths differ, which is an error; below the
second a warning is printed."""
LOOK_AHEAD = 2
"""Batches read in advance while one is in use."""


class Pixels(Protocol):
    """Stored images (N, C, H, W): a tensor, or a file on disk with the same access."""

    @property
    def shape(self) -> Sequence[int]:
        """Return (N, C, H, W)."""

    @property
    def dtype(self) -> torch.dtype:
        """Return uint8, uint16, int16 or float32."""

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        """Read images by index: (B,) int64 -> (B, C, H, W)."""

    def __len__(self) -> int:
        """Return N."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """First and second moments of each image and channel, in stored units."""

    mean: np.ndarray
    """(N, C) float64."""
    square: np.ndarray
    """(N, C) float64: mean of the squares."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Stored images with labels and splits. N images, C channels, H x W pixels.

    `splits` holds int64 indices into the images: `unlabeled`, `train`, `validation`, `test`. They do not overlap.
    """

    source: str
    pixels: Pixels
    labels: Tensor
    """(N,) int64 class indices; -1 without a label."""
    names: Sequence[str]
    """Name of each image in messages; in a folder, its path inside the folder."""
    classes: tuple[str, ...]
    splits: dict[str, Tensor]
    fingerprint: str
    """Changes with any pixel, label or split."""
    value_range: Range = EIGHT_BITS
    """Stored values that map to 0 and 1."""
    contents: np.ndarray | None = None
    """(N,) uint64: hash of each source image, independent of the stored size. None where unknown, as for a stream."""
    moments: Moments | None = None
    """Moments, where they were measured during decoding."""
    notes: tuple[str, ...] = field(default=())
    """Notes for the user: images left out, channels repeated, duplicates kept together."""

    @property
    def pool(self) -> Tensor:
        """Return the indices for pretraining: unlabelled and training images, never validation or test."""
        return torch.cat([self.splits["unlabeled"], self.splits["train"]])

    @property
    def num_channels(self) -> int:
        """Return the number of channels of every image."""
        return self.pixels.shape[1]

    def batches(self, chunks: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
        """Read each (B,) int64 chunk of indices onto `device`: (B, C, H, W) float32, 0..1 within the range.

        Pixels that are not in memory are read in advance while the caller works.
        """
        for pixels in _read_ahead(self.pixels, chunks):
            yield to_unit(pixels.to(device, non_blocking=True), self.value_range)

    def with_range(self, value_range: Range) -> "Dataset":
        """Return the same images with another value range, as that of a checkpoint."""
        return self if value_range == self.value_range else replace(self, value_range=value_range)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Compute each channel's mean and standard deviation over the pool, of values in 0..1."""
        return self._statistics

    @functools.cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        moments = self.moments or moments_of(self.pixels)
        pool = self.pool.numpy()
        low, high = self.value_range
        mean, square = moments.mean[pool].mean(axis=0), moments.square[pool].mean(axis=0)
        deviation = np.sqrt(np.clip(square - np.square(mean), 0.0, None))
        if (deviation <= 1e-6 * (high - low)).any():
            raise InputError(f"{self.source}: the images of the pool are all of one colour in some channel.")
        return tuple(((mean - low) / (high - low)).tolist()), tuple((deviation / (high - low)).tolist())

    def describe(self) -> str:
        """Summarise the data set in one line, followed by its notes."""
        counts = ", ".join(f"{len(index)} {name}" for name, index in self.splits.items() if len(index))
        size = " x ".join(str(side) for side in self.pixels.shape[2:])
        stored = f"{self.num_channels} x {size} pixels stored"
        line = f"{one_line(self.source)}: {counts}; {len(self.classes)} classes; {stored}"
        low, high = self.value_range
        values = f"values {low:g} to {high:g} become 0 to 1 (--loading.value-range)."
        return "\n".join([line, *map(one_line, self.notes), *([] if self.value_range == EIGHT_BITS else [values])])


def to_unit(pixels: Tensor, value_range: Range) -> Tensor:
    """Convert stored pixels to float32; the range maps to 0..1, and values outside it are not clamped."""
    low, high = value_range
    # A new tensor even of float32, as what follows writes into it.
    values = pixels.to(torch.float32, copy=True)
    if low:
        values.sub_(low)
    return values.div_(high - low)


def overlap(first: Range, second: Range) -> float:
    """Compute the share, 0..1, of the union of two ranges that both cover."""
    (low, high), (least, most) = first, second
    return max(0.0, min(high, most) - max(low, least)) / (max(high, most) - min(low, least))


def moments_of(pixels: Pixels) -> Moments:
    """Measure the moments of stored pixels."""
    means, squares = [], []
    for chunk in torch.arange(len(pixels)).split(256):
        values = pixels[chunk].to(torch.float64)
        means.append(values.mean(dim=(2, 3)))
        squares.append(values.square().mean(dim=(2, 3)))
    return Moments(mean=torch.cat(means).numpy(), square=torch.cat(squares).numpy())


def _read_ahead(pixels: Pixels, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    if isinstance(pixels, Tensor):
        yield from (pixels[chunk] for chunk in chunks)
        return
    waiting: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(LOOK_AHEAD) as readers:
        try:
            for chunk in chunks:
                waiting.append(readers.submit(pixels.__getitem__, chunk))
                if len(waiting) > LOOK_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
