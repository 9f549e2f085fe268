"""Files that are complete or absent: the state of a run, and the exported backbone with where it came from."""

import contextlib
import hashlib
import json
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssl_transfer.engine.errors import InputError

from .checksum import sealed, unsealed

FORMAT = 1
"""Version of `backbone.json` and its like; raised when they change shape."""
_WEIGHTS = "weights"
"""In such a file, the fingerprint of the weights beside it; older versions wrote none."""
_EXPORT_AGAIN = "Take another copy, or remove the run's result.json and call its command again."
_NOT_KEPT = (
    "A comparison keeps what it pretrained, and no transferred models; `ssl-transfer transfer --init "
    "COMPARISON/pretrain/NAME --data DATA` makes one."
)
_PROBE = 1 << 16
"""Bytes that are written where a library failed, to find out whether anything can be."""


class DamagedError(InputError):
    """A file that is not as it was written."""


def write_atomically(path: Path, write: Callable[[Path], object], *, before: Callable[[], None] | None = None) -> None:
    """Let `write` fill a file beside `path`, flush it to the disk, then rename it into place.

    Whoever reads `path` sees the old content or the new, whatever happens in between.

    Args:
        path: the file.
        write: fills the file of the name that it is given.
        before: called when the new file is whole on the disk, to move the old one out of its way.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        _try_to(write, aside)
        with naming(aside), open(aside, "rb") as file:
            os.fsync(file.fileno())
        if before is not None:
            before()
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _try_to(write: Callable[[Path], object], aside: Path) -> None:
    """Call `write`; where it fails because nothing can be written, raise the system's own reason, with the file."""
    with naming(aside):
        try:
            write(aside)
        except Exception:
            # torch and safetensors have words of their own for a full disk; one more write gets the system's.
            with open(aside, "ab") as file:
                file.write(bytes(_PROBE))
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """For the `with` block: an OSError that names no file, as of a disk that is full, gets the name of this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_atomically(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array in numpy's format whole or not at all."""

    def write(aside: Path) -> None:
        # numpy would add a suffix to a name.
        with open(aside, "wb") as file:
            np.save(file, array, allow_pickle=False)

    write_atomically(path, write)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes were writing in a folder and those below it. Nobody else may be writing there."""
    for path in folder.rglob(".*.part"):
        path.unlink(missing_ok=True)


def save_state(path: Path, state: dict[str, Any], *, before: Callable[[], None] | None = None) -> None:
    """Save tensors, numbers and containers of them; `before` as for `write_atomically`."""
    write_atomically(path, lambda aside: torch.save(state, aside), before=before)


def load_state(path: Path) -> dict[str, Any]:
    """Load what `save_state` wrote, on the CPU. Only tensors and plain values are accepted, never code.

    torch writes a zip archive with a checksum (CRC-32) of each part, which it does not look at when it reads; here
    every part is held against its own.

    Raises:
        DamagedError: the file is cut short, changed, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            # The name that it was written under comes first.
            part = broken.partition("/")[2]
            raise ValueError(f"its part {part} does not have its checksum")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except UnpicklingError as error:
        raise DamagedError(
            f"{path}: not a readable checkpoint (it holds something else than tensors and plain values; none of it was "
            "run)."
        ) from error
    except Exception as error:  # A few flipped bits can make these libraries raise nearly anything.
        raise DamagedError(f"{path}: not a readable checkpoint ({_first_line(error)}).") from error


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def save_weights(folder: Path, name: str, weights: Mapping[str, Tensor], description: dict[str, Any]) -> None:
    """Export `NAME.safetensors` and, last of all, `NAME.json`: who finds the description finds the weights."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    weights_file = folder / f"{name}.safetensors"
    write_atomically(weights_file, lambda aside: save_tensors(aside, tensors))
    checked = {"format": FORMAT, **description, _WEIGHTS: file_fingerprint(weights_file)}
    write_text(folder / f"{name}.json", json.dumps(sealed(checked), indent=2) + "\n")


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file with the mode that the umask gives: the library lets its owner alone read it."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path)
    path.chmod(mode)


def weights_fingerprint(folder: Path, name: str) -> str:
    """Sixteen hexadecimal digits of an export's weights; they do not depend on where it lies."""
    return file_fingerprint(export_folder(folder, name) / f"{name}.safetensors")


def file_fingerprint(path: Path) -> str:
    """Sixteen hexadecimal digits of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def load_weights(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the description that `save_weights` exported; as `load_description` finds them."""
    description, place = _read_description(folder, name), export_folder(folder, name)
    expected = description.pop(_WEIGHTS, None)
    try:
        weights_file = place / f"{name}.safetensors"
        if expected is not None and file_fingerprint(weights_file) != expected:
            raise ValueError(f"{weights_file.name} does not have its checksum")
        return load_file(weights_file), description
    except Exception as error:
        raise DamagedError(f"{place}: not a readable exported {name} ({error}). {_EXPORT_AGAIN}") from error


def load_description(folder: Path, name: str) -> dict[str, Any]:
    """The description that `save_weights` exported."""
    description = _read_description(folder, name)
    description.pop(_WEIGHTS, None)
    return description


def _read_description(folder: Path, name: str) -> dict[str, Any]:
    place = export_folder(folder, name)
    try:
        description = unsealed(dict(json.loads((place / f"{name}.json").read_text(encoding="utf-8"))))
    except Exception as error:
        raise DamagedError(f"{place}: not a readable exported {name} ({error}). {_EXPORT_AGAIN}") from error
    if description.get("format") != FORMAT:
        raise InputError(f"{place}: format {description.get('format')}, this version reads {FORMAT}.")
    return description


def export_folder(folder: Path, name: str) -> Path:
    """Where an export lies: `folder` is it itself, or a run that holds it in a subfolder of that name.

    Raises:
        InputError: it is in neither; what is there instead.
    """
    for candidate in (folder, folder / name):
        if (candidate / f"{name}.json").is_file():
            return candidate
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder. Give that of a finished run.")
    if (folder / "comparison.json").is_file():
        raise InputError(
            f"{folder}: a comparison, not one run. Give one of those in {folder / 'pretrain'}. {_NOT_KEPT}"
        )
    if (folder / "result.json").is_file():
        raise InputError(f"{folder}: a finished run that keeps no model. {_NOT_KEPT}")
    raise InputError(f"{folder}: holds no {name}.json. Give the folder of a finished run, or its `{name}/` folder.")
