"""Define the interface between the training loop, its batches and its objective.

A pretraining method and a transfer objective are both objectives, so that one loop trains both.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Batch(NamedTuple):
    """Hold one batch on the objective's device. B: images of this process."""

    images: Tensor
    """(B, C, H, W) float32: the stored pixels, scaled from the data's range of values to 0..1, not augmented."""
    labels: Tensor
    """(B,) int64: class indices; -1 for an image without a label."""
    keys: Tensor
    """(B,) int64: the random key of each image in this epoch (`engine.randomness`)."""


class Batches(Protocol):
    """Provide batches by epoch; `data.loaders.Loader` does."""

    batch_size: int
    """Images per optimiser step over all processes."""
    steps_per_epoch: int

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Iterate over this process's share of the batches of an epoch, from the batch `first` on."""

    def names(self, epoch: int, number: int) -> Sequence[str]:
        """Return the names of the images in this process's share of a batch; empty if they have none."""


class Output(NamedTuple):
    """Hold the result of an objective."""

    loss: Tensor
    """() float32: the mean over this process's images. The loop averages over processes."""
    metrics: dict[str, Tensor]
    """Detached scalars for the log."""


class Objective(nn.Module):
    """Turn a batch into a loss. Subclasses implement `forward(batch) -> Output`.

    `forward` runs inside the wrapper of distributed training, which requires that it uses every trained parameter.
    It may change buffers, in place only: the loop restores them if the loss is not finite.
    """

    loss_over_batch: bool = False
    """The loss depends on which images share a batch (contrasts, distances between domains). Otherwise it is a mean
    over images, and a batch may be split into micro-batches."""

    normalised_together: bool = True
    """BatchNorm may take its statistics from the images of all processes."""

    def forward(self, batch: Batch) -> Output:
        """Return loss and metrics of one batch."""
        raise NotImplementedError(f"{type(self).__name__} does not implement forward(batch) -> Output")

    def undecayed(self) -> set[str]:
        """Return the names of parameters without weight decay: tokens, embeddings. The backbone names its own."""
        return set()

    def after_step(self, progress: float) -> None:
        """Update what moves without gradients, after each optimiser step: a momentum encoder, a gradient reversal.

        All that it changes belongs to `state_dict`, or to a buffer.

        Args:
            progress: 0 to 1 over the training.
        """


def scalar(value: Tensor) -> Tensor:
    """Convert a metric for the log: detached, float32, without dimensions."""
    return value.detach().to(torch.float32).mean()
