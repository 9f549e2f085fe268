"""Running a frozen model over many images."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..data.augment import evaluation_view
from ..data.dataset import Dataset
from ..engine.runtime import Runtime
from ..engine.tracking import bar
from ..models.backbones import Backbone

BATCH_SIZE = 256
"""Images per forward; it changes the speed only, as models are in evaluation mode."""


@torch.inference_mode()
def over_images(
    function: Callable[[Tensor], Tensor], dataset: Dataset, indices: Tensor, runtime: Runtime, what: str
) -> Tensor:
    """`function` of these images as they are stored, in their order: (N, ...) on the CPU.

    Args:
        function: (B, C, H, W) float32 on the device, stored images in 0..1 -> (B, ...).
        dataset: holds the pixels.
        indices: (N,) int64.
        runtime: the device.
        what: the progress bar's text.
    """
    parts = []
    long = len(indices) > 8 * BATCH_SIZE
    with bar(what, len(indices), active=runtime.is_main and long) as progress, runtime.accelerator.autocast():
        for images in dataset.batches(indices.split(BATCH_SIZE), runtime.device):
            parts.append(function(images).float().cpu())
            progress.update(sum(len(part) for part in parts), "")
    return torch.cat(parts)


def extract(backbone: Backbone, dataset: Dataset, indices: Tensor, runtime: Runtime) -> Tensor:
    """Pooled features (N, D) float32 of unaugmented images. The backbone is left in the mode it was in."""
    training = backbone.training
    backbone.eval()
    size = backbone.spec.image_size
    features = over_images(
        lambda images: backbone(evaluation_view(images, size=size)), dataset, indices, runtime, "features"
    )
    backbone.train(training)
    return features
