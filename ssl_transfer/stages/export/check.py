"""Compare an export with the run's own model on real images.

Shapes: N images, C channels, S pixels a side.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_transfer.data.dataset import to_unit
from ssl_transfer.data.loaders.user_images import given, read_as
from ssl_transfer.data.sources import digits
from ssl_transfer.data.transforms.augment import evaluation_view
from ssl_transfer.engine.errors import InputError

from .exported_model import Exported

MOST = 32
"""Largest number of images to compare."""
Loaded = Callable[[Tensor], Tensor]
"""Reloaded export: images (N, C, S, S) in 0..1 -> scores or features."""


def check_images(exported: Exported, words: Sequence[str]) -> Tensor:
    """Read the first images that the arguments name, or handwritten digits: (N, C, S, S) float32 in 0..1.

    Raises:
        InputError: not one of them can be used.
    """
    spec = exported.backbone.spec
    if not words:
        stored = digits.read()[1].pixels[torch.arange(MOST)]
        grey = F.interpolate(stored.float() / 255.0, size=(spec.image_size,) * 2, mode="bilinear")
        return grey.expand(-1, spec.in_chans, -1, -1).contiguous()
    images = [given(word, column=None, image_size=spec.image_size, loading=exported.run.loading) for word in words]
    found, problems = [], []
    for batch in read_as(images, exported.run.storage.layout, to_grey=True, batch_size=MOST, workers=1):
        found += [one.pixels for one in batch if one.pixels is not None]
        problems += [f"{one.name}: {one.problem}" for one in batch if one.pixels is None]
        if len(found) >= MOST:
            break
    if not found:
        raise InputError(f"--images: not one of them can be used ({'; '.join(problems[:3])}).")
    values = to_unit(torch.from_numpy(np.stack(found[:MOST])), exported.run.storage.value_range)
    return evaluation_view(values, size=spec.image_size, interpolation=spec.interpolation)


@torch.inference_mode()
def largest_difference(exported: Exported, loaded: Loaded, images: Tensor, tolerance: float) -> float:
    """Compute the largest difference of an output to the run's own model, on all images at once and on one alone.

    Raises:
        InputError: it is above the tolerance, a share of the largest output.
    """
    expected = exported.module(images)
    found = torch.cat([loaded(images), loaded(images[:1])])
    expected = torch.cat([expected, expected[:1]])
    if found.shape != expected.shape:
        raise InputError(f"The exported model gives {tuple(found.shape)} instead of {tuple(expected.shape)}.")
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    # Written so that what is no number is refused.
    if not difference <= tolerance * largest:
        raise InputError(
            f"The exported model differs from the run's by {difference:.2g}, where the largest of its "
            f"{exported.output} is {largest:.2g}. Nothing is written. --tolerance {tolerance:g} is the share allowed."
        )
    return difference
