"""Batches: which images, in an order that is a function of (seed, epoch), shared out over processes."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ssl_transfer.data.dataset import Dataset, to_unit
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import permutation, sample_keys, seed_from
from ssl_transfer.engine.training.objective import Batch

DEVICE_COPY_BYTES = 2**31
"""Images that fit into this much memory lie on the GPU as uint8 for the whole training."""


class Loader:
    """Shuffled batches of `batch_size` images over all processes; what is left of an epoch's end is not used.

    Each epoch has another order, so no image is left out for good. Every process gets equally many images.

    Args:
        dataset: pixels and labels.
        indices: (N,) int64, the images to draw from.
        batch_size: images per optimiser step over all processes.
        seed: of the order and of the images' random keys.
        runtime: device and processes.
        labelled: whether labels are handed on; without, every label is -1, so that no method can look.
        balanced: draw each class as often, with replacement, instead of each image once an epoch.
        views: epochs whose keys are used in turns, so that an image has so many views in all; None: each has its own.
        steps: batches of an epoch, for which the images are gone through again and again, each time in another order;
            None: as many as are full when each image is drawn once.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: Tensor,
        *,
        batch_size: int,
        seed: int,
        runtime: Runtime,
        labelled: bool,
        balanced: bool = False,
        views: int | None = None,
        steps: int | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % runtime.num_processes:
            raise InputError(
                f"--batch-size {batch_size}: it must be a multiple of the {runtime.num_processes} processes."
            )
        if 0 < len(indices) < runtime.num_processes:
            raise InputError(
                f"{dataset.source}: {counted(len(indices), 'image')} to train on, and each of {runtime.num_processes} "
                f"processes needs one: launch at most {counted(len(indices), 'process', 'processes')}."
            )
        if len(indices) < batch_size:
            raise InputError(
                f"--batch-size {batch_size}: there are only {len(indices)} images to train on in {dataset.source}. "
                f"Give at most {len(indices) // runtime.num_processes * runtime.num_processes}."
            )
        self.batch_size = batch_size
        self.steps_per_epoch = len(indices) // batch_size if steps is None else steps
        self.indices, self.dataset, self.views = indices, dataset, views
        self._seed, self._runtime, self._balanced = seed, runtime, balanced
        image_bytes = math.prod(dataset.pixels.shape[1:]) * dataset.pixels.dtype.itemsize
        self._copy = None
        if runtime.device.type != "cpu" and image_bytes * len(indices) <= DEVICE_COPY_BYTES:
            self._copy = torch.cat([dataset.pixels[chunk].to(runtime.device) for chunk in indices.split(1024)])
        labels = dataset.labels[indices]
        self._labels = labels if labelled else torch.full_like(labels, -1)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """This process's share of each batch of an epoch, from `first` on: every W-th image of it, W processes."""
        mine = self.positions(epoch)[first:]
        for positions, images in zip(mine, self._images(mine), strict=True):
            yield self.batch(images, positions, epoch)

    def names(self, epoch: int, number: int) -> list[str]:
        """What to call each image of this process's share of a batch."""
        places = self.indices[self.positions(epoch)[number] % len(self.indices)]
        return [str(self.dataset.names[place]) for place in places.tolist()]

    def positions(self, epoch: int) -> list[Tensor]:
        """For each batch of an epoch the positions, among the N indices, of this process's images.

        An image that is drawn again counts on, from N, from 2 N: its position is the remainder.
        """
        order = self._order(self._seed, epoch)
        for turn in range(1, -(-self.steps_per_epoch * self.batch_size // len(order))):
            again = self._order(seed_from(self._seed, turn), epoch)
            order = torch.cat([order, again + (int(order.max()) // len(self.indices) + 1) * len(self.indices)])
        rank, world = self._runtime.process_index, self._runtime.num_processes
        whole = order[: self.steps_per_epoch * self.batch_size].split(self.batch_size)
        return [batch[rank::world] for batch in whole]

    def batch(self, images: Tensor, positions: Tensor, epoch: int) -> Batch:
        """Images, or what was computed of them, with the labels and keys that they have in this epoch."""
        device = self._runtime.device
        return Batch(
            images=images,
            labels=self._labels[positions % len(self.indices)].to(device, non_blocking=True),
            keys=self.keys(positions, epoch).to(device, non_blocking=True),
        )

    def keys(self, positions: Tensor, epoch: int) -> Tensor:
        """The random keys of these images in an epoch; an image that is drawn again has another view of its own."""
        repeats, places = positions // len(self.indices), positions % len(self.indices)
        if self.views is not None:
            return sample_keys(self._seed, epoch % max(1, self.views), self.indices[places])
        return sample_keys(self._seed, epoch, self.indices[places] + repeats * len(self.dataset.labels))

    def _order(self, seed: int, epoch: int) -> Tensor:
        """The positions in the order of one turn."""
        return self._drawn(seed, epoch) if self._balanced else permutation(seed, epoch, len(self.indices))

    def _drawn(self, seed: int, epoch: int) -> Tensor:
        """Positions of an epoch in which each class comes as often, as near as can be; within it all images in turn.

        A class of n images is gone through in a random order, again and again, so that of two images of a class none is
        drawn twice more than the other.
        """
        order = permutation(seed, epoch, len(self.indices))
        labels = self._labels[order]
        classes = labels.unique()
        each = -(-len(order) // len(classes))
        members = [order[labels == label] for label in classes]
        drawn = torch.cat([self._again(of_class, each) for of_class in members])
        return drawn[permutation(seed + 1, epoch, len(drawn))]

    def _again(self, members: Tensor, count: int) -> Tensor:
        """So many positions of a class, counting on each time that it is gone through."""
        turns = torch.arange(-(-count // len(members))) * len(self.indices)
        return (turns[:, None] + members[None, :]).flatten()[:count]

    def _images(self, positions: list[Tensor]) -> Iterator[Tensor]:
        """The images at these positions among the indices, batch by batch."""
        if self._copy is None:
            chunks = (self.indices[batch % len(self.indices)] for batch in positions)
            yield from self.dataset.batches(chunks, self._runtime.device)
        else:
            for batch in positions:
                rows = (batch % len(self.indices)).to(self._copy.device)
                yield to_unit(self._copy[rows], self.dataset.value_range)
