"""Read pixels that are not in memory: row by row from a file, or by decoding each time."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from joblib.executor import get_memmapping_executor
from torch import Tensor

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.npy_files import map_array

from .decode import Layout, squares_of
from .image_files import Encoded, UnreadableError


def torch_dtype(dtype: np.dtype) -> torch.dtype:
    """Convert a numpy dtype to torch's."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


class OnDisk:
    """Rows of a file of pixels, read on access.

    Args:
        file: as numpy saves an array (N', C, H, W).
        rows: (N,) int64, the rows in use.
    """

    def __init__(self, file: Path, rows: np.ndarray) -> None:
        array = map_array(file)
        self.shape = (len(rows), *array.shape[1:])
        self.dtype = torch_dtype(array.dtype)
        self._rows, self._dtype, self._offset = rows, array.dtype, array.offset
        self._row_bytes = array[0].nbytes if len(array) else 0
        self._file = open(file, "rb", buffering=0)  # noqa: SIM115  (open as long as the data set is used)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, indices: Tensor) -> Tensor:
        rows = self._rows[indices.cpu().numpy()]
        pixels = np.empty((len(rows), *self.shape[1:]), self._dtype)
        for place, row in zip(pixels, rows.tolist(), strict=True):
            if os.preadv(self._file.fileno(), [place], self._offset + row * self._row_bytes) < self._row_bytes:
                entry = Path(self._file.name).parent
                cache = shlex.quote(str(entry.parent))
                raise OSError(
                    f"{self._file.name}: ends before row {row}. `ssl-transfer data cache --evict {entry.name} "
                    f"--loading.cache {cache}` removes the entry; the next run decodes its images again."
                )
        return torch.from_numpy(pixels)


class Streamed:
    """Images that worker processes decode on each access.

    Args:
        items: all encoded images.
        kept: (N,) int64, the images in use.
        layout: stored format.
        workers: processes.
    """

    def __init__(self, items: Sequence[Encoded], kept: np.ndarray, layout: Layout, workers: int) -> None:
        self.shape = (len(kept), layout.channels, layout.side, layout.side)
        self.dtype = torch_dtype(np.dtype(layout.dtype))
        self._items, self._kept, self._layout, self._workers = items, kept, layout, workers

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, indices: Tensor) -> Tensor:
        wanted = [self._items[position] for position in self._kept[indices.cpu().numpy()].tolist()]
        share = max(1, -(-len(wanted) // self._workers))
        # Of joblib, which fills the cache with it too: one that loky alone had made would be none of its own.
        pool = get_memmapping_executor(self._workers)
        futures = [pool.submit(squares_of, wanted[i : i + share], self._layout) for i in range(0, len(wanted), share)]
        try:
            return torch.from_numpy(np.concatenate([future.result() for future in futures]))
        except UnreadableError as error:
            raise InputError(str(error)) from error
