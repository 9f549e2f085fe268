"""Load batches of images in an order that is a function of (seed, epoch), shared among processes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_transfer.data.dataset import Dataset, to_unit
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import permutation, sample_keys, seed_from
from ssl_transfer.engine.training.objective import Batch

DEVICE_COPY_BYTES = 2**31
"""Images that fit into this much memory stay on the GPU as stored for the whole training."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Set how often images are drawn; by default each once an epoch, with a new random key."""

    balanced: bool = False
    """Draw each class equally often, with replacement."""
    views: int | None = None
    """Number of epochs whose random keys are used in turn, which gives each image so many views; None: no limit."""
    steps: int | None = None
    """Batches of an epoch, over which the images are drawn again and again in new orders; None: one pass."""


class Loader:
    """Shuffle images into batches of `batch_size` over all processes, without the incomplete last batch.

    Each epoch has a new order, so that no image is always left out. Every process gets equally many images.

    Args:
        dataset: pixels and labels.
        indices: (N,) int64, the images to draw from.
        batch_size: images per optimiser step over all processes.
        seed: determines the order and the random keys of the images.
        runtime: device and processes.
        labelled: pass labels on; otherwise every label is -1, so that no method can see them.
        sampling: how often images are drawn.
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
        sampling: Sampling = Sampling(),
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
        self.steps_per_epoch = len(indices) // batch_size if sampling.steps is None else sampling.steps
        self.indices, self.dataset, self.views = indices, dataset, sampling.views
        self._seed, self._runtime, self._balanced = seed, runtime, sampling.balanced
        image_bytes = math.prod(dataset.pixels.shape[1:]) * dataset.pixels.dtype.itemsize
        self._copy = None
        if runtime.device.type != "cpu" and image_bytes * len(indices) <= DEVICE_COPY_BYTES:
            self._copy = torch.cat([dataset.pixels[chunk].to(runtime.device) for chunk in indices.split(1024)])
        labels = dataset.labels[indices]
        self._labels = labels if labelled else torch.full_like(labels, -1)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Iterate over this process's share of the batches of an epoch, from `first` on: every W-th image."""
        mine = self.positions(epoch)[first:]
        for positions, images in zip(mine, self._images(mine), strict=True):
            yield self.batch(images, positions, epoch)

    def names(self, epoch: int, number: int) -> list[str]:
        """Return the names of the images in this process's share of a batch."""
        places = self.indices[self.positions(epoch)[number] % len(self.indices)]
        return [str(self.dataset.names[place]) for place in places.tolist()]

    def positions(self, epoch: int) -> list[Tensor]:
        """Return this process's positions among the N indices for each batch of an epoch.

        A repeated draw of an image counts on from N, 2 N, ...; the remainder is the position.
        """
        order = self._order(self._seed, epoch)
        for turn in range(1, -(-self.steps_per_epoch * self.batch_size // len(order))):
            again = self._order(seed_from(self._seed, turn), epoch)
            order = torch.cat([order, again + (int(order.max()) // len(self.indices) + 1) * len(self.indices)])
        rank, world = self._runtime.process_index, self._runtime.num_processes
        whole = order[: self.steps_per_epoch * self.batch_size].split(self.batch_size)
        return [batch[rank::world] for batch in whole]

    def batch(self, images: Tensor, positions: Tensor, epoch: int) -> Batch:
        """Combine images, or features of them, with their labels and random keys of this epoch."""
        device = self._runtime.device
        return Batch(
            images=images,
            labels=self._labels[positions % len(self.indices)].to(device, non_blocking=True),
            keys=self.keys(positions, epoch).to(device, non_blocking=True),
        )

    def keys(self, positions: Tensor, epoch: int) -> Tensor:
        """Return the random keys of these images in an epoch; a repeated draw has a key of its own."""
        repeats, places = positions // len(self.indices), positions % len(self.indices)
        if self.views is not None:
            return sample_keys(self._seed, epoch % max(1, self.views), self.indices[places])
        return sample_keys(self._seed, epoch, self.indices[places] + repeats * len(self.dataset.labels))

    def _order(self, seed: int, epoch: int) -> Tensor:
        """Return the order of one pass."""
        return self._drawn(seed, epoch) if self._balanced else permutation(seed, epoch, len(self.indices))

    def _drawn(self, seed: int, epoch: int) -> Tensor:
        """Draw the positions of an epoch, each class as equally often as possible.

        Within a class, images are drawn in repeated random passes, so that their counts differ by at most one.
        """
        order = permutation(seed, epoch, len(self.indices))
        labels = self._labels[order]
        classes = labels.unique()
        each = -(-len(order) // len(classes))
        members = [order[labels == label] for label in classes]
        drawn = torch.cat([self._again(of_class, each) for of_class in members])
        return drawn[permutation(seed + 1, epoch, len(drawn))]

    def _again(self, members: Tensor, count: int) -> Tensor:
        """Repeat the positions of a class up to `count`, counting on in each pass."""
        turns = torch.arange(-(-count // len(members))) * len(self.indices)
        return (turns[:, None] + members[None, :]).flatten()[:count]

    def _images(self, positions: list[Tensor]) -> Iterator[Tensor]:
        """Iterate over the images at these positions, batch by batch."""
        if self._copy is None:
            chunks = (self.indices[batch % len(self.indices)] for batch in positions)
            yield from self.dataset.batches(chunks, self._runtime.device)
        else:
            for batch in positions:
                # Without non_blocking, the copy would wait for all queued work of the device.
                rows = (batch % len(self.indices)).to(self._copy.device, non_blocking=True)
                yield to_unit(self._copy[rows], self.dataset.value_range)
