"""Load batches of two domains: labelled images of the source, then images of the target without labels.

One batch holds both, so that a network forwards them together and BatchNorm sees one distribution. In separate passes
each would be normalised by itself in training, and by their mixture in evaluation.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.engine.training.objective import Batch

from .loader import Loader, Sampling

SOURCE_SHARE = 0.5
"""Share of the source in a batch (Ganin et al. 2016, section 5.2.2)."""


class Domain(NamedTuple):
    """Select the images of a domain."""

    dataset: Dataset
    indices: Tensor
    """(N,) int64, the images to draw from."""


class DomainLoader:
    """Shuffle two domains into batches; each process's part holds images of the source, then of the target.

    An epoch is one pass over the larger domain. The smaller one repeats, each time in a new order, so that an epoch
    contains every image of both. All labels of the target are -1, so that no objective can see them.

    Args:
        source: labelled images.
        target: images with as many channels.
        batch_size: images per optimiser step over all processes and both domains.
        seed: determines order and random keys, which the domains do not share.
        runtime: device and processes.
        source_share: share of the source in a batch.
        balanced: draw each class of the source equally often.

    Raises:
        InputError: a domain would have no image on some process.
    """

    def __init__(
        self,
        source: Domain,
        target: Domain,
        *,
        batch_size: int,
        seed: int,
        runtime: Runtime,
        source_share: float = SOURCE_SHARE,
        balanced: bool = False,
    ) -> None:
        world = runtime.num_processes
        from_source = _whole(min(batch_size * source_share, len(source.indices)), world)
        from_target = _whole(min(batch_size - batch_size * source_share, len(target.indices)), world)
        if min(from_source, from_target) < max(2, world):
            raise InputError(
                f"--batch-size {batch_size}: each of {world} processes needs images of both domains in every batch, "
                "and two of each are the least that a distance can be taken of "
                f"({len(source.indices)} of the source and {len(target.indices)} of the target are there). Give more, "
                "or launch fewer processes."
            )
        self.batch_size, self.source_share = from_source + from_target, from_source / (from_source + from_target)
        self.steps_per_epoch = max(-(-len(source.indices) // from_source), -(-len(target.indices) // from_target))
        self._source = Loader(
            *source,
            batch_size=from_source,
            seed=seed,
            labelled=True,
            runtime=runtime,
            sampling=Sampling(balanced=balanced, steps=self.steps_per_epoch),
        )
        self._target = Loader(
            *target,
            batch_size=from_target,
            seed=seed_from(seed, 1),
            labelled=False,
            runtime=runtime,
            sampling=Sampling(steps=self.steps_per_epoch),
        )
        # Images of the domain that is stored smaller are enlarged.
        shapes = (source.dataset.pixels.shape[2:], target.dataset.pixels.shape[2:])
        self._size = max((int(height), int(width)) for height, width in shapes)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Iterate over this process's share of the batches of an epoch, from `first` on."""
        for source, target in zip(self._source.epoch(epoch, first), self._target.epoch(epoch, first), strict=True):
            yield Batch(
                images=torch.cat([self._resized(source.images), self._resized(target.images)]),
                labels=torch.cat([source.labels, target.labels]),
                keys=torch.cat([source.keys, target.keys]),
            )

    def names(self, epoch: int, number: int) -> list[str]:
        """Return the names of the images in this process's share of a batch."""
        return self._source.names(epoch, number) + self._target.names(epoch, number)

    def _resized(self, images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) == self._size:
            return images
        return F.interpolate(images, self._size, mode="bilinear", align_corners=False, antialias=True)


def _whole(count: float, world: int) -> int:
    """Round down to a multiple of the processes."""
    return int(count + 1e-6) // world * world
