import io

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits, load_sample_images

from ssl_transfer.data.split import duplicates
from ssl_transfer.engine.randomness import seed_from

SIDE = 64


def photographs() -> list[Image.Image]:
    """Squares of the two photographs that scikit-learn carries, none overlapping another; plain sky is left out."""
    squares = [
        Image.fromarray(np.ascontiguousarray(photograph[top : top + SIDE, left : left + SIDE]))
        for photograph in load_sample_images().images
        for top in range(0, photograph.shape[0] - SIDE, SIDE)
        for left in range(0, photograph.shape[1] - SIDE + 1, SIDE)
    ]
    return [square for square in squares if np.asarray(square.convert("L")).std() > 20.0]


def facts(images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    hashes, thumbnails = [], []
    for image in images:
        grey = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("L")
        hashes.append(int("".join("01"[int(bit)] for bit in imagehash.phash(grey).hash.ravel()), 2))
        thumbnails.append(np.asarray(grey.resize((16, 16), Image.Resampling.BOX)))
    return np.array(hashes, dtype=np.uint64), np.stack(thumbnails)


def reencode(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


PLANTS = {
    "jpeg": reencode,
    "resize": lambda image: image.resize((51, 51), Image.Resampling.BICUBIC),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "crop": lambda image: image.crop((1, 1, SIDE - 1, SIDE - 1)),
}


def brute_force(hashes: np.ndarray, distance: int) -> list[list[int]]:
    near = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= distance
    return np.argwhere(np.triu(near, k=1)).tolist()


def hashes_with_neighbours(seed: int, size: int = 400) -> np.ndarray:
    """Random hashes, and others that differ from them in 0 to 12 bits, gathered anywhere or in one half."""
    generator = np.random.default_rng(seed)
    hashes = generator.integers(0, 2**64, size=size // 2, dtype=np.uint64)
    others = generator.choice(hashes, size=size // 2)
    for index, count in enumerate(generator.integers(0, 13, size=len(others))):
        for bit in generator.choice(64 if index % 2 else 20, size=count, replace=False):
            others[index] ^= np.uint64(1) << np.uint64(bit)
    return generator.permutation(np.concatenate([hashes, others]))


@pytest.mark.parametrize("distance", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12])
def test_near_pairs_are_those_of_brute_force(distance):
    for seed in range(4):
        hashes = hashes_with_neighbours(seed_from(seed, distance))
        found = duplicates.near_pairs(hashes, distance=distance)
        assert found.dtype == np.int64
        assert found.tolist() == brute_force(hashes, distance)
        assert len(found) > 5


def test_hashes_that_crowd_together_are_exact_too():
    # Few bits vary, so buckets are large and almost everything is near.
    hashes = np.random.default_rng(0).permutation(1 << 10)[:300].astype(np.uint64) << np.uint64(30)
    assert duplicates.near_pairs(hashes, distance=4).tolist() == brute_force(hashes, 4)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_few_hashes(size):
    hashes = np.full(size, 7, dtype=np.uint64)
    assert duplicates.near_pairs(hashes, distance=8).tolist() == [[0, 1]] * (size == 2)
    assert duplicates.near_groups(hashes, np.zeros((size, 16, 16), dtype=np.uint8)).tolist() == [-1] * size


def test_thousands_of_equal_hashes_stay_few_pairs_and_connected():
    hashes = np.concatenate([np.full(20_000, 3, dtype=np.uint64), np.array([2], dtype=np.uint64)])
    pairs = duplicates.near_pairs(hashes, distance=2)
    assert len(pairs) < 30_000
    assert len(np.unique(pairs)) == len(hashes)
    codes = duplicates.components(pairs, len(hashes))
    assert set(codes.tolist()) == {0}


def test_exact_groups():
    codes = duplicates.exact_groups(np.array([5, 2**63, 5, 7, 2**63, 5, 9], dtype=np.uint64))
    assert codes.dtype == np.int64
    assert codes[3] == codes[6] == -1
    assert codes[0] == codes[2] == codes[5] != codes[1] == codes[4]
    assert min(codes[0], codes[1]) >= 0


@pytest.mark.parametrize("name", PLANTS)
def test_planted_near_duplicates_are_found_and_nothing_else(name):
    originals = photographs()
    assert len(originals) > 60
    planted = [PLANTS[name](image) for image in originals[::4]]
    codes = duplicates.near_groups(*facts([*originals, *planted]))
    groups = [np.flatnonzero(codes == code).tolist() for code in range(codes.max() + 1)]
    expected = [[4 * number, len(originals) + number] for number in range(len(planted))]
    assert [group for group in groups if group not in expected] == []
    assert len(groups) >= 0.9 * len(planted)


def test_photographs_alone_are_joined_with_nothing():
    assert duplicates.near_groups(*facts(photographs())).max() == -1


def test_digits_are_not_joined():
    digits = [Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)) for image in load_digits().images]
    hashes, thumbnails = facts(digits)
    assert duplicates.near_groups(hashes, thumbnails, sides=np.full(len(hashes), 8)).max() == -1
    # Hashes alone would join a great part of them.
    assert len(np.unique(duplicates.near_pairs(hashes, distance=duplicates.DISTANCE))) > 800
    assert (duplicates.near_groups(hashes, thumbnails) >= 0).mean() < 0.03


def test_small_images_are_left_alone_among_large_ones():
    originals = photographs()[:6]
    hashes, thumbnails = facts([*originals, *originals])
    sides = np.full(12, 64)
    sides[6:9] = duplicates.SMALLEST_SIDE - 1
    assert duplicates.near_groups(hashes, thumbnails, sides=sides).tolist()[6:9] == [-1, -1, -1]
    codes = duplicates.near_groups(hashes, thumbnails, sides=sides)
    assert (codes[3:6] >= 0).all()
    assert codes[3:6].tolist() == codes[9:12].tolist()


def test_blank_images_are_no_near_duplicates():
    thumbnails = np.full((50, 16, 16), 255, dtype=np.uint8)
    assert duplicates.near_groups(np.zeros(50, dtype=np.uint64), thumbnails).max() == -1


def test_a_still_camera():
    """Twenty frames, with noise, of each of three scenes: neighbours that are all copies do not hide each other."""
    scenes = photographs()[:60:20]
    generator = np.random.default_rng(0)
    frames = [
        Image.fromarray(np.clip(np.asarray(scene) + generator.normal(0, 2, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8))
        for scene in scenes
        for _ in range(20)
    ]
    codes = duplicates.near_groups(*facts(frames))
    for number in range(len(scenes)):
        assert len(set(codes[20 * number : 20 * number + 20])) == 1
    assert len(set(codes)) == len(scenes)


def test_a_chain_is_cut():
    """Each image is a little of the next: the ends have nothing in common, and are not joined."""
    generator = np.random.default_rng(0)
    ends = generator.normal(size=(2, 256))
    steps = 40
    angles = np.linspace(0.0, np.pi / 2, steps)
    values = np.cos(angles)[:, None] * ends[0] + np.sin(angles)[:, None] * ends[1]
    noise = generator.normal(size=(400, 256))
    thumbnails = np.clip(128 + 35 * np.concatenate([values, noise]), 0, 255).astype(np.uint8).reshape(-1, 16, 16)
    hashes = np.concatenate([np.zeros(steps, dtype=np.uint64), generator.integers(0, 2**63, 400, dtype=np.uint64)])
    pairs, _ = duplicates.confirmed_pairs(hashes, thumbnails)
    assert len(np.unique(pairs)) == steps
    codes = duplicates.near_groups(hashes, thumbnails)
    assert np.bincount(codes[codes >= 0], minlength=1).max() <= 20
