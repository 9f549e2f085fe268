"""Hold the readable images of a list and their measurements: columns, a value an image. M images, C channels."""

from dataclasses import dataclass

import numpy as np
import torch

from ssl_transfer.data.dataset import EIGHT_BITS, Pixels, moments_of

from .decode import THUMBNAIL, Measured, digest

MEASURED = ("contents", "digests", "hashes", "thumbnails", "means", "squares", "ranges")
"""Columns that are measured on decoded pixels."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Stored pixels and their columns. M images, C channels."""

    pixels: Pixels
    kept: np.ndarray
    """(M,) int64: positions in the list of images."""
    contents: np.ndarray
    """(M,) uint64: equal for equal files or arrays, however they are stored."""
    digests: np.ndarray
    """(M,) uint64: equal for exact duplicates."""
    hashes: np.ndarray
    """(M,) uint64: perceptual hashes. Empty where not measured."""
    thumbnails: np.ndarray
    """(M, 16, 16) uint8, grey. Empty where not measured."""
    means: np.ndarray
    """(M, C) float64, in stored units."""
    squares: np.ndarray
    """(M, C) float64: means of the squares."""
    ranges: np.ndarray
    """(M, 2) float64: the values that a thousandth of an image's pixels lies below, and above."""
    sizes: np.ndarray
    """(M, 2) int64: width and height before storing."""
    unreadable: dict[str, str]
    """Reason for each unreadable image, by name."""
    notes: tuple[str, ...]
    """Notes for the user."""


def in_memory(pixels: np.ndarray) -> Stored:
    """Wrap small images that are already decoded: (N, C, H, W) uint8. No perceptual hashes are measured."""
    count = len(pixels)
    moments = moments_of(torch.from_numpy(pixels))
    digests = np.array([digest(image) for image in pixels], dtype=np.uint64)
    return Stored(
        pixels=torch.from_numpy(pixels),
        kept=np.arange(count),
        contents=digests,
        digests=digests,
        hashes=np.empty(0, np.uint64),
        thumbnails=np.empty((0, THUMBNAIL, THUMBNAIL), np.uint8),
        means=moments.mean,
        squares=moments.square,
        ranges=np.tile(np.array(EIGHT_BITS), (count, 1)),
        sizes=np.tile(np.array(pixels.shape[:1:-1]), (count, 1)),
        unreadable={},
        notes=(),
    )


class Columns:
    """Measurements of the images in arrays; a list of a million small objects would take a gigabyte."""

    def __init__(self, channels: int, most: int) -> None:
        self._contents, self._digests, self._hashes = (np.zeros(most, np.uint64) for _ in range(3))
        self._thumbnails = np.zeros((most, THUMBNAIL, THUMBNAIL), np.uint8)
        self._means, self._squares = np.zeros((most, channels)), np.zeros((most, channels))
        self._ranges = np.zeros((most, 2))

    def put(self, row: int, measured: Measured) -> None:
        """Store the measurements of one image."""
        self._contents[row], self._digests[row], self._hashes[row] = measured.content, measured.digest, measured.phash
        self._thumbnails[row], self._means[row], self._squares[row] = measured.thumbnail, measured.mean, measured.square
        self._ranges[row] = measured.low, measured.high

    def arrays(self, count: int) -> dict[str, np.ndarray]:
        """Return the first `count` rows of each column."""
        return {name: getattr(self, f"_{name}")[:count] for name in MEASURED}
