"""Batches of two kinds of images: some with labels, and some of the pool, whose labels nobody looks at."""

import itertools
from collections.abc import Iterator

import torch

from ..engine.contract import Batch
from .loaders import Loader


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

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This process's share of each batch of an epoch."""
        for pair in zip(self._labelled_from(epoch * self.steps_per_epoch), self.pool.epoch(epoch), strict=False):
            yield Batch(*(torch.cat(parts) for parts in zip(*pair, strict=True)))

    def _labelled_from(self, step: int) -> Iterator[Batch]:
        """The batches of the labelled images from a step on, without end."""
        epoch, done = divmod(step, self.labelled.steps_per_epoch)
        for number in itertools.count(epoch):
            yield from itertools.islice(self.labelled.epoch(number), done if number == epoch else 0, None)
