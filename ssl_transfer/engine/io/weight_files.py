"""Save and load exported weights with their JSON description and checksums."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import DamagedError, write_atomically, write_text
from ssl_transfer.engine.io.checksum import sealed, unsealed

FORMAT = 1
"""Version of `backbone.json` and `head.json`; raised when their fields change."""
_WEIGHTS = "weights"
"""Field with the fingerprint of the weights beside the file; older versions wrote none."""
_EXPORT_AGAIN = "Take another copy, or remove the run's result.json and call its command again."
_NOT_KEPT = (
    "A comparison keeps what it pretrained, and no transferred models; `ssl-transfer transfer --init "
    "COMPARISON/pretrain/NAME --data DATA` makes one."
)


def save_weights(folder: Path, name: str, weights: Mapping[str, Tensor], description: dict[str, Any]) -> None:
    """Export `NAME.safetensors`, then `NAME.json`: a description never lies beside missing weights."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    weights_file = folder / f"{name}.safetensors"
    write_atomically(weights_file, lambda aside: save_tensors(aside, tensors))
    checked = {"format": FORMAT, **description, _WEIGHTS: file_fingerprint(weights_file)}
    write_text(folder / f"{name}.json", json.dumps(sealed(checked), indent=2) + "\n")


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file with the mode of the umask; the library writes 0600."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path)
    path.chmod(mode)


def weights_fingerprint(folder: Path, name: str) -> str:
    """Hash an export's weights to sixteen hexadecimal digits, independent of its place."""
    return file_fingerprint(export_folder(folder, name) / f"{name}.safetensors")


def file_fingerprint(path: Path) -> str:
    """Hash a file's content to sixteen hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def load_weights(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load the weights and the description that `save_weights` exported."""
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
    """Load the description that `save_weights` exported."""
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
    """Find the folder of an export: `folder` itself, or its subfolder of that name.

    Raises:
        InputError: the export is in neither; the message names what is there instead.
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
