"""Batches of two kinds of images: some with labels, and some of the pool, whose labels nobody looks at."""

import itertools
from collections.abc import Iterator

import torch

from ssl_transfer.engine.training.objective import Batch

from .loader import Loader


class MixedLoader:
    """Each batch is one of `labelled` and one of `pool`; an epoch goes through the pool.

    The labelled images are gone through as often as that takes, each time in another order. Which of them a step gets
    is a function of its number, so that a training that is resumed sees what it would have seen.

    Args:
        labelled: hands labels on.
        pool: does not.
    """

    def __init__(self, labelled: Loader, pool: Loader) -> None:
        self.labelled, self.pool = labelled, pool
        self.batch_size = labelled.batch_size + pool.batch_size
        self.steps_per_epoch = pool.steps_per_epoch

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """This process's share of each batch of an epoch, from `first` on."""
        labelled = self._labelled_from(epoch * self.steps_per_epoch + first)
        for pair in zip(labelled, self.pool.epoch(epoch, first), strict=False):
            yield Batch(*(torch.cat(parts) for parts in zip(*pair, strict=True)))

    def names(self, epoch: int, number: int) -> list[str]:
        """What to call each image of this process's share of a batch."""
        own = divmod(epoch * self.steps_per_epoch + number, self.labelled.steps_per_epoch)
        return self.labelled.names(*own) + self.pool.names(epoch, number)

    def _labelled_from(self, step: int) -> Iterator[Batch]:
        """The batches of the labelled images from a step on, without end."""
        epoch, done = divmod(step, self.labelled.steps_per_epoch)
        for number in itertools.count(epoch):
            yield from self.labelled.epoch(number, done if number == epoch else 0)
