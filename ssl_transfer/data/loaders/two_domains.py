"""Batches of two domains: labelled images of the source and, behind them, images of the target without labels.

One batch holds both, so that a network forwards them at once and BatchNorm sees one distribution: forwarded apart, each
would be normalised by itself in training and by their mixture afterwards.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.engine.training.objective import Batch

from .loader import Loader

SOURCE_SHARE = 0.5
"""Of a batch (Ganin et al. 2016, section 5.2.2)."""


class DomainLoader:
    """Shuffled batches, each process's part of which holds both domains: first the source's images, then the target's.

    An epoch is a pass over the longer domain, and the other one goes round, each time in another order; so every image
    of either is seen in every epoch. Labels of the target are -1 whatever it has, so that no objective can look.

    Args:
        source: pixels and labels.
        target: pixels; of as many channels.
        source_indices: (N,) int64, the labelled images to draw from.
        target_indices: (M,) int64.
        batch_size: images per optimiser step over all processes and both domains.
        source_share: of a batch that is the source's.
        seed: of the order and of the images' random keys, which the domains do not share.
        runtime: device and processes.
        balanced: draw each class of the source as often (as `Loader`).

    Raises:
        InputError: a domain would have no image on some process.
    """

    def __init__(
        self,
        source: Dataset,
        target: Dataset,
        *,
        source_indices: Tensor,
        target_indices: Tensor,
        batch_size: int,
        seed: int,
        runtime: Runtime,
        source_share: float = SOURCE_SHARE,
        balanced: bool = False,
    ) -> None:
        world = runtime.num_processes
        from_source = _whole(min(batch_size * source_share, len(source_indices)), world)
        from_target = _whole(min(batch_size - batch_size * source_share, len(target_indices)), world)
        if min(from_source, from_target) < max(2, world):
            raise InputError(
                f"--batch-size {batch_size}: each of {world} processes needs images of both domains in every batch, "
                "and two of each are the least that a distance can be taken of "
                f"({len(source_indices)} of the source and {len(target_indices)} of the target are there). Give more, "
                "or launch fewer processes."
            )
        self.batch_size, self.source_share = from_source + from_target, from_source / (from_source + from_target)
        self.steps_per_epoch = max(-(-len(source_indices) // from_source), -(-len(target_indices) // from_target))
        self._source = Loader(
            source,
            source_indices,
            batch_size=from_source,
            seed=seed,
            labelled=True,
            balanced=balanced,
            runtime=runtime,
            steps=self.steps_per_epoch,
        )
        self._target = Loader(
            target,
            target_indices,
            batch_size=from_target,
            seed=seed_from(seed, 1),
            labelled=False,
            runtime=runtime,
            steps=self.steps_per_epoch,
        )
        # Where they are stored at different sizes the smaller ones are enlarged.
        shapes = (source.pixels.shape[2:], target.pixels.shape[2:])
        self._size = max((int(height), int(width)) for height, width in shapes)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """This process's share of each batch of an epoch, from `first` on."""
        for source, target in zip(self._source.epoch(epoch, first), self._target.epoch(epoch, first), strict=True):
            yield Batch(
                images=torch.cat([self._resized(source.images), self._resized(target.images)]),
                labels=torch.cat([source.labels, target.labels]),
                keys=torch.cat([source.keys, target.keys]),
            )

    def names(self, epoch: int, number: int) -> list[str]:
        """What to call each image of this process's share of a batch."""
        return self._source.names(epoch, number) + self._target.names(epoch, number)

    def _resized(self, images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) == self._size:
            return images
        return F.interpolate(images, self._size, mode="bilinear", align_corners=False, antialias=True)


def _whole(count: float, world: int) -> int:
    """The largest multiple of the processes that is no more."""
    return int(count + 1e-6) // world * world
