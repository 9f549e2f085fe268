"""Decode once: files into one memory-mapped uint8 array, shared by every run that reads the same files."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..engine.checkpoint import write_atomically, write_text
from ..engine.errors import InputError
from ..engine.tracking import bar

CROP_MARGIN = 8 / 7
"""Photographs are stored this much larger than models see them, as 256 is to 224, so that crops have room."""
_GREY, _COLOUR = (
    frozenset({"1", "L", "LA"}),
    frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB"}),
)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The pixels of the readable files: (N, C, S, S) uint8, and their positions in the list that was given."""

    pixels: Tensor
    kept: list[int]


def decode(files: Sequence[Path], *, image_size: int, folder: Path, max_unreadable: float) -> Decoded:
    """Decode images to squares, or map the cache where an earlier run decoded the same files.

    The shorter side is brought to `image_size` * 8/7 and the middle square is kept; EXIF rotation is respected. Grey
    files give one channel when all are grey, otherwise three.

    Raises:
        InputError: more than `max_unreadable` of the files cannot be read; a file has 16 bits a channel or floats,
            which would be cut to 8.
    """
    side = round(image_size * CROP_MARGIN)
    digest = hashlib.sha256(f"v1 {side}".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    base = folder.expanduser() / digest.hexdigest()[:24]
    array, listing = base.with_suffix(".npy"), base.with_suffix(".json")
    if not (array.is_file() and listing.is_file()):
        _fill(files, side, array, listing)
    record = json.loads(listing.read_text(encoding="utf-8"))
    unreadable = record["unreadable"]
    if unreadable:
        named = "; ".join(f"{name}: {why}" for name, why in list(unreadable.items())[:5])
        more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        message = f"{len(unreadable)} of {len(files)} images cannot be read: {named}{more}."
        if len(unreadable) > max_unreadable * len(files):
            raise InputError(
                f"{message} That is more than --loading.max-unreadable {max_unreadable:g} allows: "
                "mend or remove them, or allow more."
            )
        print(f"warning: {message} They are left out.", flush=True)
    # Copy on write: torch wants a writable array, and nothing of the file changes.
    return Decoded(pixels=torch.from_numpy(np.load(array, mmap_mode="c")), kept=record["kept"])


def _fill(files: Sequence[Path], side: int, array: Path, listing: Path) -> None:
    """Decode every file into `array`, then write `listing`, whose presence makes the cache complete."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as workers:
        modes = _map(workers, _mode, files, "reading headers")
        unreadable = {str(file): mode[1:] for file, mode in zip(files, modes, strict=True) if mode.startswith("!")}
        deep = [
            str(file)
            for file, mode in zip(files, modes, strict=True)
            if not mode.startswith("!") and mode not in _GREY | _COLOUR
        ]
        if deep:
            raise InputError(
                f"{len(deep)} images have more than 8 bits a channel (first: {deep[0]}), and would lose them. "
                "Convert them to 8 bits in the way that suits them, or leave them out."
            )
        grey = all(mode in _GREY for mode in modes if not mode.startswith("!"))
        candidates = [index for index, mode in enumerate(modes) if not mode.startswith("!")]

        def write(aside: Path) -> None:
            shape = (len(candidates), 1 if grey else 3, side, side)
            pixels = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)

            def one(position: int) -> str:
                try:
                    pixels[position] = _square(files[candidates[position]], side, grey)
                except Exception as error:  # PIL raises many kinds for a broken file; each is named to the user.
                    return f"{type(error).__name__}: {error}"
                return ""

            answers = _map(workers, one, range(len(candidates)), "decoding images")
            rows = [row for row, why in enumerate(answers) if not why]
            for row, why in enumerate(answers):
                if why:
                    unreadable[str(files[candidates[row]])] = why
            if len(rows) < len(candidates):
                whole = pixels[rows]
                del pixels
                np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=whole.shape)[:] = whole
            kept.extend(candidates[row] for row in rows)

        kept: list[int] = []
        write_atomically(array, write)
        write_text(listing, json.dumps({"kept": kept, "unreadable": unreadable}))


def _map(workers: ThreadPoolExecutor, function: Callable, items: Sequence, description: str) -> list:
    """`function` of each item, in order, under a progress bar."""
    answers = []
    with bar(description, len(items)) as progress:
        for answer in workers.map(function, items):
            answers.append(answer)
            if len(answers) % 64 == 0:
                progress.update(len(answers), "")
    return answers


def _mode(file: Path) -> str:
    """PIL's mode of a file, from its header; `!why` when it cannot be read."""
    try:
        with Image.open(file) as image:
            # PIL opens colour images of 16 bits a channel as RGB and drops the lower bits; only its raw mode tells.
            return f"{image.mode};16" if ";16" in str(getattr(image, "tile", "")) else image.mode
    except Exception as error:  # As above: every kind of broken file is named, none stops the others.
        return f"!{type(error).__name__}: {error}"


def _square(file: Path, side: int, grey: bool) -> np.ndarray:
    """The middle square of an image, (C, side, side) uint8; antialiased when it shrinks."""
    with Image.open(file) as image:
        image.draft("RGB" if not grey else "L", (side, side))
        upright = ImageOps.exif_transpose(image)
        square = ImageOps.fit(upright.convert("L" if grey else "RGB"), (side, side), method=Image.Resampling.BICUBIC)
    pixels = np.asarray(square)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)
