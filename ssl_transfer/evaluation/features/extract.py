"""Run a frozen model over many images."""

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.transforms.augment import evaluation_view
from ssl_transfer.engine.console.progress import bar
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.models.backbones import Backbone
from ssl_transfer.models.classifier import Classifier

BATCH_SIZE = 256
"""Images per forward; it changes the speed only, as models are in evaluation mode."""


@torch.inference_mode()
def over_samples(
    function: Callable[[Tensor, Tensor], Tensor], dataset: Dataset, indices: Tensor, runtime: Runtime, what: str
) -> Tensor:
    """Apply `function` to stored images and their indices, in order: (N, ...) on the CPU.

    Args:
        function: (B, C, H, W) float32 on the device, stored images in 0..1, and (B,) int64 on the CPU -> (B, ...).
        dataset: holds the pixels.
        indices: (N,) int64.
        runtime: the device.
        what: the progress bar's text.
    """
    parts, done = [], 0
    chunks, long = indices.split(BATCH_SIZE), len(indices) > 8 * BATCH_SIZE
    with bar(what, len(indices), active=runtime.is_main and long) as progress, runtime.accelerator.autocast():
        for chunk, images in zip(chunks, dataset.batches(chunks, runtime.device), strict=True):
            parts.append(function(images, chunk).float().cpu())
            done += len(chunk)
            progress.update(done, "")
    return torch.cat(parts)


def over_images(
    function: Callable[[Tensor], Tensor], dataset: Dataset, indices: Tensor, runtime: Runtime, what: str
) -> Tensor:
    """Apply a function of the images alone, as `over_samples`."""
    return over_samples(lambda images, _: function(images), dataset, indices, runtime, what)


def class_scores_of(classifier: Classifier, dataset: Dataset, indices: Tensor, runtime: Runtime) -> Tensor:
    """Compute scores (N, K) of unaugmented images by a run's own classifier on the runtime's device."""
    spec = classifier.backbone.spec

    def of_images(images: Tensor) -> Tensor:
        view = evaluation_view(images, size=spec.image_size, interpolation=spec.interpolation)
        return classifier.scores(classifier.features(view))

    return over_images(of_images, dataset, indices, runtime, "head")


def extract(
    backbone: Backbone,
    dataset: Dataset,
    indices: Tensor,
    runtime: Runtime,
    *,
    change: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Extract pooled features (N, D) float32 of unaugmented images. The backbone's mode is restored.

    `change`, a function of the backbone's input (B, C, S, S) and of the images' indices (B,), is applied first: a
    corruption.
    """
    spec = backbone.spec

    def features_of(images: Tensor, samples: Tensor) -> Tensor:
        view = evaluation_view(images, size=spec.image_size, interpolation=spec.interpolation)
        return backbone(view if change is None else change(view, samples))

    training = backbone.training
    backbone.eval()
    features = over_samples(features_of, dataset, indices, runtime, "features")
    backbone.train(training)
    return features
