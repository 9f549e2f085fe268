"""Draw `reconstructions.png`: a few images, their visible parts, and their reconstructions."""

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssl_transfer.engine.io.atomic import write_atomically
from ssl_transfer.methods.base import Reconstruction

from .image_grid import sheet


def write(path: Path, title: str, rows: Sequence[str], images: Tensor, found: Reconstruction) -> None:
    """Draw B images in rows.

    Args:
        path: of the PNG; an older one is replaced.
        title: heading of the figure.
        rows: name of each image.
        images: (B, C, S, S) in 0..1 on the CPU, as evaluation views.
        found: the method's reconstructions, on the CPU.
    """
    columns = [("image", images), ("what it sees", found.seen), ("what it paints", found.reconstructed)]
    columns.append(("the truth", found.target))
    if torch.equal(found.seen, found.target):
        # Nothing was hidden from it.
        del columns[1]
    drawn = sheet(title, rows, columns, side=max(112, images.shape[3]))
    write_atomically(path, functools.partial(drawn.save, format="png"))
