"""Save and load training states: tensors and plain values, checked part by part."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ssl_transfer.engine.io.atomic import DamagedError, write_atomically


def save_state(path: Path, state: dict[str, Any], *, before: Callable[[], None] | None = None) -> None:
    """Save tensors, numbers and containers of them; `before` as for `write_atomically`."""
    write_atomically(path, lambda aside: torch.save(state, aside), before=before)


def load_state(path: Path) -> dict[str, Any]:
    """Load what `save_state` wrote, on the CPU. Only tensors and plain values are accepted, never code.

    torch writes a zip archive with a checksum (CRC-32) of each part, and does not verify it; this function does.

    Raises:
        DamagedError: the file is cut short, changed, or holds anything but tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            # A part's name begins with the name of the original file.
            part = broken.partition("/")[2]
            raise ValueError(f"its part {part} does not have its checksum")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except UnpicklingError as error:
        raise DamagedError(
            f"{path}: not a readable checkpoint (it holds something else than tensors and plain values; none of it was "
            "run)."
        ) from error
    except Exception as error:  # A flipped bit can make these libraries raise any error.
        raise DamagedError(f"{path}: not a readable checkpoint ({_first_line(error)}).") from error


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
