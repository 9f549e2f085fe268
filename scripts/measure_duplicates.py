"""Measure recall and false matches of near-duplicate detection on real images.

    python scripts/measure_duplicates.py ../shared/data/flowers5

Prints how many pairs of the folder's images are within each Hamming distance, how many of them `data/duplicates.py`
confirms and in which groups, and the share of planted near-duplicates (of 500 images) that it confirms too. Also takes
cifar10.npz, an .npz with images in `x_train` (MNIST, USPS), and `digits`. Docs/decisions.md holds what it printed.
"""

import argparse
import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from ssl_transfer.data.split import duplicates
from ssl_transfer.data.store.decode import LOOK, Layout, measured

Pixels = Image.Image


def reencode(image: Pixels) -> Pixels:
    """As JPEG of quality 60."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


def shrink(image: Pixels) -> Pixels:
    """To 80 % of its sides."""
    return image.resize((round(0.8 * image.width), round(0.8 * image.height)), Image.Resampling.BICUBIC)


def brighten(image: Pixels) -> Pixels:
    """By 10 %."""
    return ImageEnhance.Brightness(image).enhance(1.1)


def crop(image: Pixels) -> Pixels:
    """Without 3 % of its sides, at least a pixel."""
    across, down = max(1, round(0.03 * image.width)), max(1, round(0.03 * image.height))
    left, top = across // 2, down // 2
    return image.crop((left, top, image.width - across + left, image.height - down + top))


PLANTS: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG q60": reencode,
    "resized to 80 %": shrink,
    "brighter by 10 %": brighten,
    "cropped by 3 %": crop,
}


def read(path: str, most: int) -> list[Callable[[], Pixels]]:
    """The images, each opened when called."""
    if path == "digits":
        from sklearn.datasets import load_digits

        arrays = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    elif path.endswith("cifar10.npz"):
        packed = np.load(path, allow_pickle=False)
        ends, blob = packed["offsets"], packed["blob"].tobytes()
        return [
            lambda start=start, end=end: Image.open(io.BytesIO(blob[start:end])).convert("RGB")
            for start, end in itertools.pairwise(ends[: most + 1].tolist())
        ]
    elif path.endswith(".npz"):
        arrays = np.load(path, allow_pickle=False)["x_train"]
    else:
        files = sorted(file for file in Path(path).rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
        return [lambda file=file: Image.open(file).convert("RGB") for file in files[:most]]
    return [lambda array=array: Image.fromarray(array) for array in arrays[:most]]


def facts(images: list[Pixels]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (N,) uint64 and thumbnails (N, 16, 16) uint8, as the cache keeps them."""
    layout = Layout(channels=3, dtype="uint8", side=LOOK, background=255)
    found = [measured(np.asarray(image.convert("RGB")), layout)[1] for image in images]
    return np.array([one.phash for one in found], dtype=np.uint64), np.stack([one.thumbnail for one in found])


def main() -> None:
    """Measure one set of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--most", type=int, default=20_000)
    given = parser.parse_args()
    openers = read(given.images, given.most)
    hashes, thumbnails = facts([opener() for opener in openers])
    print(f"{given.images}: {len(hashes)} images")
    for distance in (0, 2, 4, 6, 8):
        print(f"  pairs within {distance} bits: {len(duplicates.near_pairs(hashes, distance=distance))}")
    groups = duplicates.near_groups(hashes, thumbnails)
    sizes = np.bincount(groups[groups >= 0])
    confirmed = duplicates.confirmed_pairs(hashes, thumbnails)[0]
    print(
        f"  confirmed pairs: {len(confirmed)}; {sizes.sum()} images in {len(sizes)} groups, "
        f"the largest of {sizes.max(initial=0)}"
    )
    chosen = np.arange(0, len(openers), max(1, len(openers) // 500))
    for name, change in PLANTS.items():
        planted = facts([change(openers[index]()) for index in chosen])
        both = [np.concatenate([old, new]) for old, new in zip((hashes, thumbnails), planted, strict=True)]
        pairs = duplicates.confirmed_pairs(both[0], both[1])[0]
        found = {tuple(pair) for pair in pairs.tolist()}
        hits = sum((index, len(hashes) + number) in found for number, index in enumerate(chosen.tolist()))
        print(f"  found of {len(chosen)} {name}: {hits / len(chosen):.1%}")


if __name__ == "__main__":
    main()
