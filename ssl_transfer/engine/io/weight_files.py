"""Save and load weights with their JSON description: `NAME.safetensors` and `NAME.json`, each with its checksum."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import DamagedError, write_atomically, write_text
from ssl_transfer.engine.io.checksum import file_checksum, sealed, unsealed

FORMAT = 1
"""Version of `backbone.json` and `head.json`; raised when their fields change."""
_WEIGHTS = "weights"
"""Key of the weights' fingerprint in the description; older versions wrote none."""
EXPORT_AGAIN = "Take another copy; or repeat the run with --fresh, or its comparison with --retry."
_NOT_KEPT = (
    "A comparison keeps what it pretrained, and no transferred models; `ssl-transfer transfer --init "
    "COMPARISON/pretrain/NAME --data DATA` makes one."
)


class WeightFile:
    """Weights with their description; each file is read once, when it is first needed.

    Args:
        folder: holds both files, or holds a subfolder `name` with them.
        name: backbone or head.

    Raises:
        InputError: neither folder holds them; the message names what is there instead.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.folder = name, _find(folder, name)
        self.path = self.folder / f"{name}.safetensors"

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """Description that `save_weights` wrote.

        Raises:
            InputError: it is damaged, or of a format that this version does not read.
        """
        return {name: value for name, value in self._content.items() if name != _WEIGHTS}

    @functools.cached_property
    def _content(self) -> dict[str, Any]:
        file = self.folder / f"{self.name}.json"
        try:
            description = unsealed(dict(json.loads(file.read_text(encoding="utf-8"))))
        except Exception as error:
            raise self._damaged(error) from error
        version = description.get("format")
        if version is None:
            raise self._damaged(ValueError(f"{file.name} has no format"))
        if version != FORMAT:
            raise InputError(
                f"{self.folder}: format {version}, this version reads {FORMAT}. Read it with the version that wrote it."
            )
        return description

    @property
    def _expected(self) -> str | None:
        """Fingerprint that the description holds; older versions wrote none."""
        return self._content.get(_WEIGHTS)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of the weights; they do not depend on the folder.

        Raises:
            DamagedError: they differ from the checksum in their description.
        """
        expected = self._expected
        try:
            found = file_fingerprint(self.path)
            if expected is not None and found != expected:
                raise ValueError(f"{self.path.name} does not have its checksum")
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error
        return found

    def verify(self) -> None:
        """Compare the weights, and the arrays beside them, with the checksums in the description.

        Raises:
            DamagedError: one differs, or is missing.
        """
        _ = self.fingerprint
        for name, expected in self.description.items():
            if name.endswith(".npy"):
                self.verify_array(name, str(expected))

    def verify_array(self, name: str, expected: str) -> None:
        """Compare an array beside the weights with its checksum.

        Raises:
            DamagedError: it differs, or is missing.
        """
        path = self.folder / name
        if not path.is_file() or file_checksum(path) != expected:
            reason = "differs from its checksum" if path.is_file() else "missing, unlike its checksum"
            raise DamagedError(f"{path}: {reason} in {self.name}.json. {EXPORT_AGAIN}")

    def tensors(self) -> dict[str, Tensor]:
        """Load the weights, compared with the checksum in their description.

        Raises:
            DamagedError: they are not readable, or not as they were written.
        """
        _ = self.fingerprint
        try:
            return load_file(self.path)
        except Exception as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DamagedError:
        return DamagedError(f"{self.folder}: not a readable exported {self.name} ({error}). {EXPORT_AGAIN}")


def save_weights(folder: Path, name: str, weights: Mapping[str, Tensor], description: dict[str, Any]) -> None:
    """Write `NAME.safetensors`, then `NAME.json`: a description is never without its weights."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    weights_file = folder / f"{name}.safetensors"
    write_atomically(weights_file, lambda aside: save_tensors(aside, tensors))
    checked = {"format": FORMAT, **description, _WEIGHTS: file_fingerprint(weights_file)}
    write_text(folder / f"{name}.json", json.dumps(sealed(checked), indent=2) + "\n")


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file with the mode of the umask; the library's own mode excludes all but the owner."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path)
    path.chmod(mode)


def file_fingerprint(path: Path) -> str:
    """Hash the content of a file to sixteen hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _find(folder: Path, name: str) -> Path:
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
