"""Compute features at a frozen boundary once, so that later phases train at the speed of the head.

Where a phase trains only the layers behind a boundary, the layers before it are a fixed function of each view. With a
fixed number of views their features are computed once, held in memory for the phase and freed with it. Batches, order
and labels equal the live path. The frozen part runs on batches of the same size, as a library may choose another
algorithm, with another last bit, for another size.

Shapes: N images, V views, B images of a batch; features of one image have any shape.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.loaders.loader import Loader
from ssl_transfer.engine.console.formatting import file_size
from ssl_transfer.engine.console.progress import bar
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.training.objective import Batch
from ssl_transfer.evaluation.features.extract import BATCH_SIZE, over_images
from ssl_transfer.objectives.supervised import Supervised

MOST_BYTES = 4 * 10**9
"""Features that would take more bytes are computed live."""
Function = Callable[[Tensor], Tensor]


class FeatureBatches:
    """Batches of a loader with features in the place of images.

    Args:
        loader: of the images.
        features: (V, N, ...) on the device; an epoch reads the view of its turn.
    """

    def __init__(self, loader: Loader, features: Tensor) -> None:
        self.loader, self.features = loader, features
        self.batch_size, self.steps_per_epoch = loader.batch_size, loader.steps_per_epoch

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield this process's share of each batch of an epoch, from `first` on."""
        view = self.features[epoch % len(self.features)]
        for positions in self.loader.positions(epoch)[first:]:
            taken = like_a_map(view[(positions % view.shape[0]).to(view.device)])
            yield self.loader.batch(taken, positions, epoch)

    def names(self, epoch: int, number: int) -> list[str]:
        """Name each image of this process's share of a batch."""
        return self.loader.names(epoch, number)


@torch.no_grad()
def training_features(
    objective: Supervised, to_boundary: Function, loader: Loader, runtime: Runtime
) -> FeatureBatches | str:
    """Compute the features of every view of every training image; a sentence where they are computed live."""
    size = loader.batch_size // runtime.num_processes
    views, count = max(1, loader.views or 1), len(loader.indices)
    everything = torch.arange(count)
    features = torch.empty(0)
    with bar("features", views * count, active=runtime.is_main) as progress, runtime.accelerator.autocast():
        for view in range(views):
            for start in range(0, count, size):
                # The last batch is filled up, so that all have one size.
                rows = everything[start : start + size]
                positions = torch.arange(start, start + size) % count
                (images,) = loader.dataset.batches([loader.indices[positions]], runtime.device)
                keys = loader.keys(positions, view).to(runtime.device)
                found = to_boundary(objective.view(images, keys))[: len(rows)]
                if not len(features):
                    needed = views * count * found[0].numel() * found.element_size()
                    if needed > MOST_BYTES:
                        return f"features would take {file_size(needed)}, so they are computed live"
                    features = found.new_empty((views, count, *found.shape[1:]))
                features[view, rows.to(found.device)] = found
                progress.update(view * count + start + len(rows), "")
    return FeatureBatches(loader, features)


def held_features(
    objective: Supervised, to_boundary: Function, dataset: Dataset, indices: Tensor, runtime: Runtime
) -> Tensor:
    """Compute features (N, ...) of unaugmented images at the boundary, on the CPU."""
    return over_images(lambda images: to_boundary(objective.plain_view(images)), dataset, indices, runtime, "features")


@torch.inference_mode()
def logits_of(objective: Supervised, from_boundary: Function, features: Tensor, runtime: Runtime) -> Tensor:
    """Compute logits (N, K) float32 on the CPU from the features of `held_features`."""
    with runtime.accelerator.autocast():
        parts = [
            objective.scores(from_boundary(like_a_map(chunk.to(runtime.device)))).cpu()
            for chunk in features.split(BATCH_SIZE)
        ]
    return torch.cat(parts)


def like_a_map(features: Tensor) -> Tensor:
    """Lay out maps channels last, as in `models.backbones`."""
    return features.contiguous(memory_format=torch.channels_last) if features.ndim == 4 else features
