"""Read arrays without pickles, which could run code."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from ssl_transfer.engine.errors import InputError


def load_array(path: Path, *, remedy: str = "Take another copy.") -> np.ndarray:
    """Read the array in a `.npy` file.

    Args:
        path: the file.
        remedy: last sentence of the message.

    Raises:
        InputError: the file is damaged, or holds a pickle.
    """
    return _load(path, None, remedy)


def map_array(path: Path) -> np.memmap:
    """Map the array in a `.npy` file into memory; errors as `load_array`."""
    return _load(path, "r", "Take another copy.")


def _load(path: Path, mmap_mode: Literal["r"] | None, remedy: str) -> Any:
    try:
        found = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: not a readable array ({error}). {remedy}") from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise InputError(f"{path}: several arrays, where one is expected. {remedy}")
    return found
