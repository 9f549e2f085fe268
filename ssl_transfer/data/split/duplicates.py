"""Find exact and near duplicates: equal pixels, and photographs re-encoded, resized, brightened or slightly cropped.

Candidates are images whose perceptual hashes (64 bits, `imagehash.phash`) differ in few bits. A candidate is confirmed
by the correlation c of the two thumbnails (16 x 16 grey values). The limit depends on the other images: a handwritten 1
resembles every other 1, two photographs of one flower resemble nothing else. So 1 - c must be small relative to its
value for the neighbours of both images. Lowe's ratio test for keypoints (IJCV 2004) is similar.

Measured with scripts/measure_duplicates.py (docs/decisions.md has the table) on photographs and steel surfaces: 96 to
100 % of planted re-encodings, resizings and brightenings are found. So are 95 to 99 % of crops by 3 % (half of them at
32 px). The pairs found among 4,000 cats and dogs, 3,117 flowers, 1,799 steel surfaces and, in an inspected sample,
20,000 CIFAR images are true duplicates. Of 20,000 images of MNIST 3 % are joined, wrongly: hence `SMALLEST_SIDE`.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from .groups import components

DISTANCE = 8
"""Largest number of bits in which the hashes of near duplicates differ. A crop by 3 % changes at most 8 in 99 of
100."""
CORRELATION = 0.95
"""Least correlation of their thumbnails."""
RATIO = 8
"""Required ratio: a pair must be this many times nearer (in 1 - c) than either one's 11th nearest of `NEIGHBOURS`
images."""
SURE = 0.998
"""Correlation from which the ratio test is skipped: frames of a still camera have only each other as neighbours."""
NEIGHBOURS = 1000
SMALLEST_SIDE = 32
"""Source images with fewer pixels a side do not distinguish a copy from another image of the class."""
THUMBNAIL_SIDE = 16
_CROWD = 32
"""Number of images with one hash that are compared with all others; the rest, such as thousands of blank ones, are
chained."""
_CHUNK = 1 << 22


def exact_groups(digests: np.ndarray) -> np.ndarray:
    """Group images with equal digests, (N,) uint64 of the stored pixels: (N,) int64 codes, -1 without a copy."""
    _, codes, counts = np.unique(digests, return_inverse=True, return_counts=True)
    return np.where(counts[codes] > 1, codes, -1).astype(np.int64)


def near_groups(hashes: np.ndarray, thumbnails: np.ndarray, *, sides: np.ndarray | None = None) -> np.ndarray:
    """Group near duplicates: (N,) int64 codes, -1 for an image without one.

    An image near to two others joins their groups, so chains are possible. A group of more than 1 % of the images (and
    more than 20) is divided by requiring a higher and higher agreement.

    Args:
        hashes: (N,) uint64, perceptual hashes.
        thumbnails: (N, 16, 16) uint8, the images in grey, averaged (PIL's `BOX`).
        sides: (N,) pixels of the shorter side of each source image; one below `SMALLEST_SIDE` is never joined.
    """
    if sides is not None and (sides < SMALLEST_SIDE).any():
        codes = np.full(len(hashes), -1, dtype=np.int64)
        large = np.flatnonzero(sides >= SMALLEST_SIDE)
        codes[large] = near_groups(hashes[large], thumbnails[large])
        return codes
    pairs, distances = confirmed_pairs(hashes, thumbnails)
    limit = max(20, len(hashes) // 100)
    allowed = 1.0 - CORRELATION
    while True:
        codes = components(pairs, len(hashes))
        sizes = np.bincount(codes[codes >= 0], minlength=1)
        large = sizes[codes[pairs[:, 0]]] > limit
        if not large.any() or allowed < 1e-4:
            return codes
        allowed /= 2.0
        kept = ~large | (distances <= allowed)
        pairs, distances = pairs[kept], distances[kept]


def confirmed_pairs(hashes: np.ndarray, thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find pairs of near duplicates: (M, 2) int64, the smaller index first, and (M,) float32, 1 - correlation."""
    drawn = np.random.default_rng(0).permutation(len(hashes))[:NEIGHBOURS]
    sample = _standardised(thumbnails[drawn])
    reach = np.full(len(hashes), np.nan, dtype=np.float32)
    found, distances = [np.empty((0, 2), dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    for pairs in _candidates(hashes, DISTANCE):
        for part in np.array_split(pairs, 1 + len(pairs) // 50_000):
            left, right = (_standardised(thumbnails[part[:, place]]) for place in (0, 1))
            apart = 1.0 - np.einsum("ij,ij->i", left, right)
            likely = apart <= 1.0 - CORRELATION
            part, apart = part[likely], apart[likely]
            asked = np.unique(part)
            asked = asked[np.isnan(reach[asked])]
            reach[asked] = _reach(thumbnails[asked], sample)
            near = (RATIO * apart <= reach[part].min(axis=1)) | (apart <= 1.0 - SURE)
            found.append(part[near])
            distances.append(apart[near])
    unique, first = np.unique(np.concatenate(found), axis=0, return_index=True)
    return unique, np.concatenate(distances)[first]


def _standardised(thumbnails: np.ndarray) -> np.ndarray:
    """Standardise (M, 16, 16) uint8 to (M, 256) float32 of mean 0 and length 1; blanks are 0.

    The products of rows are correlations.
    """
    values = thumbnails.reshape(len(thumbnails), THUMBNAIL_SIDE**2).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0.0, length, 1.0)


def _reach(thumbnails: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Compute each distance (1 - c) to the 11th nearest of the sample, (M,) float32.

    The sample may hold the image itself and ten copies.
    """
    rank = min(10, len(sample) - 1)
    reaches = [
        np.partition(1.0 - _standardised(thumbnails[start : start + 2048]) @ sample.T, rank, axis=1)[:, rank]
        for start in range(0, len(thumbnails), 2048)
    ]
    return np.concatenate([np.empty(0, dtype=np.float32), *reaches])


def near_pairs(hashes: np.ndarray, *, distance: int) -> np.ndarray:
    """Find all pairs of hashes (N,) uint64 within a Hamming distance: (M, 2) int64, the smaller index first, sorted.

    Of more than 32 images with one hash, only 32 are paired with all others. Each further one is paired with the next,
    so that all stay connected.
    """
    found = [np.empty((0, 2), dtype=np.int64), *_candidates(hashes, distance)]
    return np.unique(np.concatenate(found), axis=0)


def _candidates(hashes: np.ndarray, distance: int) -> Iterator[np.ndarray]:
    """Yield the pairs of `near_pairs` in chunks, some of them twice."""
    unique, codes = np.unique(hashes, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(unique) + 1))
    sizes = np.minimum(np.diff(starts), _CROWD)
    chained = codes[order[:-1]] == codes[order[1:]]
    yield np.stack([order[:-1][chained], order[1:][chained]], axis=1)
    equal = np.flatnonzero(sizes > 1)
    for left, right in [(equal, equal), *_near_unique(unique, distance)]:
        # Every image of the one hash with every image of the other.
        counts = sizes[left] * sizes[right]
        position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        width = np.repeat(sizes[right], counts)
        first = order[np.repeat(starts[left], counts) + position // width]
        second = order[np.repeat(starts[right], counts) + position % width]
        pairs = np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1)
        yield pairs[first != second]


def _near_unique(hashes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions of distinct hashes within the distance, in chunks; a pair occurs up to once per band.

    The 64 bits are divided into bands. Two hashes within the distance agree in at least one band, up to one bit: two or
    more differences in each band would exceed `distance`.
    """
    num_bands = max(4, distance // 2 + 1)
    edges = np.linspace(0, 64, num_bands + 1).round().astype(int)
    left, right, count = [], [], 0
    for low, high in itertools.pairwise(edges.tolist()):
        keys = ((hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        values, starts = np.unique(keys[order], return_index=True)
        ends = np.append(starts[1:], len(keys))
        place = {int(value): number for number, value in enumerate(values)}
        for number, value in enumerate(values.tolist()):
            neighbours = [place.get(value ^ (1 << bit), -1) for bit in range(high - low)]
            others = [number, *(other for other in neighbours if other > number)]
            mine = order[starts[number] : ends[number]]
            theirs = np.concatenate([order[starts[other] : ends[other]] for other in others])
            for part in np.array_split(mine, 1 + len(mine) * len(theirs) // _CHUNK):
                near = np.bitwise_count(hashes[part][:, None] ^ hashes[theirs][None, :]) <= distance
                rows, columns = np.nonzero(near)
                one, other = part[rows], theirs[columns]
                # Within the bucket itself every pair comes from both ends.
                once = (one < other) | (columns >= len(mine))
                left.append(one[once])
                right.append(other[once])
                count += int(once.sum())
            if count > _CHUNK // 4:
                yield np.concatenate(left), np.concatenate(right)
                left, right, count = [], [], 0
    if count:
        yield np.concatenate(left), np.concatenate(right)
