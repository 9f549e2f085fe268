"""Load batches of labelled images and images of the pool, whose labels are hidden."""

import itertools
from collections.abc import Iterator

import torch

from ssl_transfer.engine.training.objective import Batch

from .loader import Loader


class MixedLoader:
    """Join each batch of `pool` with one of `labelled`; an epoch is one pass over the pool.

    The labelled images repeat, each time in a new order. The labelled images of a step are a function of its number, so
    that a resumed training sees the same batches.

    Args:
        labelled: passes labels on.
        pool: passes no labels on.
    """

    def __init__(self, labelled: Loader, pool: Loader) -> None:
        self.labelled, self.pool = labelled, pool
        self.batch_size = labelled.batch_size + pool.batch_size
        self.steps_per_epoch = pool.steps_per_epoch

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Iterate over this process's share of the batches of an epoch, from `first` on."""
        labelled = self._labelled_from(epoch * self.steps_per_epoch + first)
        for pair in zip(labelled, self.pool.epoch(epoch, first), strict=False):
            yield Batch(*(torch.cat(parts) for parts in zip(*pair, strict=True)))

    def names(self, epoch: int, number: int) -> list[str]:
        """Return the names of the images in this process's share of a batch."""
        own = divmod(epoch * self.steps_per_epoch + number, self.labelled.steps_per_epoch)
        return self.labelled.names(*own) + self.pool.names(epoch, number)

    def _labelled_from(self, step: int) -> Iterator[Batch]:
        """Iterate over the batches of labelled images from a step on, without end."""
        epoch, done = divmod(step, self.labelled.steps_per_epoch)
        for number in itertools.count(epoch):
            yield from self.labelled.epoch(number, done if number == epoch else 0)
