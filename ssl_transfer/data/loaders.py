"""Batches: which images, in an order that is a function of (seed, epoch), shared out over processes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..engine.contract import Batch
from ..engine.errors import InputError
from ..engine.randomness import permutation, sample_keys
from ..engine.runtime import Runtime
from .sources import Dataset

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
    """

    def __init__(
        self, dataset: Dataset, indices: Tensor, *, batch_size: int, seed: int, runtime: Runtime, labelled: bool
    ) -> None:
        if batch_size < 1 or batch_size % runtime.num_processes:
            raise InputError(
                f"--batch-size {batch_size}: it must be a multiple of the {runtime.num_processes} processes."
            )
        if len(indices) < batch_size:
            raise InputError(
                f"--batch-size {batch_size}: there are only {len(indices)} images to train on in {dataset.source}. "
                f"Give at most {len(indices) // runtime.num_processes * runtime.num_processes}."
            )
        self.batch_size = batch_size
        self.steps_per_epoch = len(indices) // batch_size
        self._indices, self._seed, self._runtime = indices, seed, runtime
        on_device = runtime.device.type != "cpu" and dataset.pixels[0].numel() * len(indices) <= DEVICE_COPY_BYTES
        # The copy holds only the images that are drawn from, so rows are looked up by position, not by index.
        self._pixels = dataset.pixels[indices].to(runtime.device) if on_device else dataset.pixels
        self._rows = torch.arange(len(indices)) if on_device else indices
        labels = dataset.labels[indices]
        self._labels = labels if labelled else torch.full_like(labels, -1)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This process's share of each batch of an epoch: every W-th image of it, W processes."""
        order = permutation(self._seed, epoch, len(self._indices))
        device = self._runtime.device
        for step in range(self.steps_per_epoch):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            mine = batch[self._runtime.process_index :: self._runtime.num_processes]
            rows = self._rows[mine]
            yield Batch(
                images=self._pixels[rows.to(self._pixels.device)].to(device, non_blocking=True),
                labels=self._labels[mine].to(device, non_blocking=True),
                keys=sample_keys(self._seed, epoch, self._indices[mine]).to(device, non_blocking=True),
            )
