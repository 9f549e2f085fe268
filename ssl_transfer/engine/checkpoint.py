"""Files that are complete or absent: the state of a run, and the exported backbone with where it came from."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import InputError

FORMAT = 1
"""Version of the state and of `backbone.json`; raised when either changes shape."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, flush it to the disk, then rename it into place.

    Whoever reads `path` sees the old content or the new, whatever happens in between.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        write(aside)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_atomically(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers and containers of them."""
    write_atomically(path, lambda aside: torch.save({"format": FORMAT, **state}, aside))


def load_state(path: Path) -> dict[str, Any]:
    """Load what `save_state` wrote, on the CPU. Only tensors and plain values are accepted, never code."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path}: not a readable checkpoint ({error}). Delete it, or start over with --fresh."
        ) from error
    if state.get("format") != FORMAT:
        raise InputError(f"{path}: checkpoint format {state.get('format')}, this version reads {FORMAT}. Use --fresh.")
    return state


def save_weights(folder: Path, name: str, weights: Mapping[str, Tensor], description: dict[str, Any]) -> None:
    """Export `NAME.safetensors` and, last of all, `NAME.json`: who finds the description finds the weights."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    write_atomically(folder / f"{name}.safetensors", lambda aside: save_file(tensors, aside))
    write_text(folder / f"{name}.json", json.dumps({"format": FORMAT, **description}, indent=2) + "\n")


def weights_fingerprint(folder: Path, name: str) -> str:
    """Sixteen hexadecimal digits of an export's weights; they do not depend on where it lies."""
    place = folder if (folder / f"{name}.json").is_file() else folder / name
    return file_fingerprint(place / f"{name}.safetensors")


def file_fingerprint(path: Path) -> str:
    """Sixteen hexadecimal digits of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def load_weights(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the description that `save_weights` exported.

    `folder` is the export itself, or a run that holds it in a subfolder of that name.
    """
    for candidate in (folder, folder / name):
        if (candidate / f"{name}.json").is_file():
            try:
                description = json.loads((candidate / f"{name}.json").read_text(encoding="utf-8"))
                weights = load_file(candidate / f"{name}.safetensors")
            except Exception as error:
                raise InputError(f"{candidate}: not a readable exported {name} ({error}).") from error
            if description.get("format") != FORMAT:
                raise InputError(f"{candidate}: format {description.get('format')}, this version reads {FORMAT}.")
            return weights, description
    raise InputError(
        f"{folder}: holds no {name}.json. Give the folder of a finished run, or its `{name}/` folder; "
        "or one of the words scratch, imagenet."
    )
