"""Blend images over crops of photographs, as in MNIST-M: `blended-digits` and `blend:DATA,PHOTOFOLDER`.

Ganin and Lempitsky, "Unsupervised domain adaptation by backpropagation", ICML 2015, section 4.1. Each digit x of MNIST
is blended with a random patch p of a colour photograph, in each channel, as |x - p|. The paper uses the photographs of
BSDS500. Here they come from a folder, or are five that scikit-image ships.

Unlike in the paper, no background of the test images is seen in training. Of a folder, every photograph serves one
part; of the five, each part has its own columns. A patch is a function of (split seed, index of the image, its part).
Images smaller than the model's input are enlarged first, so that patches keep their detail.

Shapes: N images, C channels, S pixels a side, H x W a photograph.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import ImageOps

from ssl_transfer.data.dataset import Dataset, moments_of
from ssl_transfer.data.domains import enlarged
from ssl_transfer.data.store.image_files import UnreadableError, header, open_image
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.home_folder import expanded
from ssl_transfer.engine.randomness import permutation, sample_keys, uniform

from .folder import image_names

MOST = 500
"""Largest number of photographs used from a folder: as many as BSDS500 has."""
SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}
"""Share of the photographs, or of each one's columns, for each part."""
_CHUNK = 1024
_PATCHES, _PHOTOGRAPHS = 0, 1
"""Streams of randomness."""


@dataclass(frozen=True)
class Area:
    """Columns of a photograph that serve as a source of patches."""

    photograph: int
    left: int
    right: int


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """Photographs to cut patches from, divided by part."""

    open: Callable[[int], np.ndarray]
    """Opens the photograph of a number: (H, W, 3) uint8."""
    heights: Sequence[int]
    """Height H of each photograph."""
    areas: dict[str, list[Area]]
    """Areas for training (and unlabelled), validation and test images. They do not overlap."""
    note: str
    """Note for the user of the data."""


def embedded(side: int) -> Photographs:
    """Open five colour photographs of scikit-image, cut into columns for training, validation and test.

    Raises:
        InputError: patches of so many pixels a side do not fit into the narrowest columns.
    """
    from skimage import data

    images = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0]]
    areas: dict[str, list[Area]] = {part: [] for part in SHARES}
    for number, image in enumerate(images):
        edges = [round(edge * image.shape[1]) for edge in np.cumsum([0.0, *SHARES.values()])]
        for part, left, right in zip(SHARES, edges, edges[1:], strict=False):
            areas[part].append(Area(number, left, right))
    narrowest = min(area.right - area.left for part in areas.values() for area in part)
    if side > narrowest:
        raise InputError(
            f"Patches of {side} pixels do not fit into scikit-image's photographs, of whose columns validation has "
            f"{narrowest}. Give a smaller --image-size, or a folder of photographs: blend:DATA,PHOTOFOLDER."
        )
    return Photographs(
        open=images.__getitem__,
        heights=[len(image) for image in images],
        areas=areas,
        note="blended over crops of five photographs of scikit-image; training, validation and test have columns of "
        "their own",
    )


def of_folder(path: Path, side: int, *, seed: int, source: str) -> Photographs:
    """Open a folder's photographs, at any depth; each serves training, validation or test images.

    Raises:
        InputError: no such folder, a file that cannot be read, or fewer than three photographs that are large enough.
    """
    path = expanded(path, flag="--data")
    if not path.is_dir():
        raise InputError(f"--data {source}: there is no folder of photographs {path} (looked from {Path.cwd()}).")
    names = image_names(path)
    drawn = [path / names[index] for index in sorted(permutation(seed, _PHOTOGRAPHS, len(names))[:MOST].tolist())]
    sizes = {file: _size(file, source) for file in drawn}
    files = [file for file in drawn if min(sizes[file]) >= side]
    if len(files) < len(SHARES):
        raise InputError(
            f"--data {source}: {path} has {len(files)} photographs of {side} pixels a side or more; at least "
            f"{len(SHARES)} are needed, as training, validation and test images each have their own."
        )
    # At least one each, however few there are.
    counts = {part: max(1, round(share * len(files))) for part, share in SHARES.items() if part != "train"}
    order, areas, start = permutation(seed, _PHOTOGRAPHS, len(files)).tolist(), {}, 0
    for part in ("validation", "test", "train"):
        chosen = order[start : start + counts[part]] if part in counts else order[start:]
        areas[part] = [Area(number, 0, sizes[files[number]][0]) for number in sorted(chosen)]
        start += len(chosen)
    small = len(drawn) - len(files)
    return Photographs(
        open=lambda number: _opened(files[number], source),
        heights=[sizes[file][1] for file in files],
        areas=areas,
        note=f"blended over crops of {len(files)} photographs of {path}; training, validation and test have "
        "photographs of their own"
        + (f"; {small} smaller than {side} pixels are left out" if small else "")
        + (f"; {len(names) - len(drawn)} more are not used" if len(names) > len(drawn) else ""),
    )


def blend(base: Dataset, photographs: Photographs, *, side: int, seed: int, source: str) -> Dataset:
    """Blend every image of `base` over a patch of its own, keeping the splits of `base`.

    Args:
        base: 8-bit grey or colour images; a grey channel is repeated.
        photographs: the source of patches.
        side: S of the result.
        seed: selects the patches.
        source: name of the result.

    Returns:
        (N, 3, S, S) uint8 in memory. `contents` stays that of the images of `base`, so that an image seen in training
        is recognised on another background.
    """
    if base.pixels.dtype != torch.uint8 or base.num_channels not in (1, 3):
        raise InputError(f"--data {source}: 8-bit grey or colour images are blended; {base.source} holds others.")
    pixels = torch.empty(len(base.pixels), 3, side, side, dtype=torch.uint8)
    for part, areas in photographs.areas.items():
        rows = base.pool if part == "train" else base.splits[part]
        _fill(pixels, rows, base, areas, photographs, seed=seed)
    # What is in no part is never looked at.
    parted = torch.cat(list(base.splits.values()))
    pixels[torch.isin(torch.arange(len(pixels)), parted, invert=True)] = 0
    digest = hashlib.sha256(f"{base.fingerprint} {side}".encode())
    digest.update(pixels.numpy().data)
    return replace(
        base,
        source=source,
        pixels=pixels,
        fingerprint=digest.hexdigest()[:16],
        moments=moments_of(pixels),
        notes=(*base.notes, photographs.note),
    )


def _fill(
    pixels: torch.Tensor,
    rows: torch.Tensor,
    base: Dataset,
    areas: Sequence[Area],
    photographs: Photographs,
    *,
    seed: int,
) -> None:
    """Blend the images of these rows over patches of these areas, photograph by photograph."""
    side = pixels.shape[-1]
    draws = uniform(sample_keys(seed, 0, rows), _PATCHES, 3).numpy().astype(np.float64)
    chosen = (draws[:, 0] * len(areas)).astype(np.int64)
    for number, area in enumerate(areas):
        mine = np.flatnonzero(chosen == number)
        if not len(mine):
            continue
        photograph = photographs.open(area.photograph)[:, area.left : area.right]
        room = np.array(photograph.shape[:2]) - side + 1
        corners = (draws[mine, 1:] * room).astype(np.int64)
        # (H', W', 3, S, S): every patch there is, without a copy.
        patches = np.lib.stride_tricks.sliding_window_view(photograph, (side, side), axis=(0, 1))
        for start in range(0, len(mine), _CHUNK):
            some, places = rows[mine[start : start + _CHUNK]], corners[start : start + _CHUNK]
            images = enlarged(base.pixels[some], side).to(torch.int16)
            cut = torch.from_numpy(patches[places[:, 0], places[:, 1]].astype(np.int16))
            pixels[some] = (images - cut).abs().to(torch.uint8)


def _size(file: Path, source: str) -> tuple[int, int]:
    """Read the width and height of a photograph."""
    try:
        found = header(file)
    except (UnreadableError, OSError) as error:
        raise InputError(f"--data {source}: {file} cannot be read ({error}). Mend or remove it.") from error
    if found.dtype != "uint8":
        raise InputError(f"--data {source}: {file} holds {found.dtype}; photographs of 8 bits are blended.")
    return found.width, found.height


def _opened(file: Path, source: str) -> np.ndarray:
    try:
        with open_image(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnreadableError, OSError) as error:
        raise InputError(f"--data {source}: {file} cannot be read ({error}). Mend or remove it.") from error
