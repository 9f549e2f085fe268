"""What the loop trains: an objective, which turns a batch into a loss.

A pretraining method and a transfer objective are the same kind of thing, so one loop serves both.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Batch(NamedTuple):
    """What a loader hands to an objective; every tensor lies on the objective's device. B: images of this process."""

    images: Tensor
    """(B, C, H, W) float32: the stored pixels, 0..1 within the data's range of values, not yet augmented."""
    labels: Tensor
    """(B,) int64: class indices; -1 where an image has no label."""
    keys: Tensor
    """(B,) int64: the random key of each image in this epoch (`engine.randomness`)."""


class Batches(Protocol):
    """Where the loop gets its batches: `data.loaders.Loader` is one."""

    batch_size: int
    """Images per optimiser step over all processes."""
    steps_per_epoch: int

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """This process's share of each batch of an epoch, from the batch `first` on."""

    def names(self, epoch: int, number: int) -> Sequence[str]:
        """What to call each image of this process's share of a batch; empty where they have no names."""


class Output(NamedTuple):
    """What an objective answers."""

    loss: Tensor
    """() float32: the mean over this process's images. Processes are averaged by the loop."""
    metrics: dict[str, Tensor]
    """Detached scalars for the log."""


class Objective(nn.Module):
    """Base of every method and every transfer objective. Subclasses implement `forward(batch) -> Output`.

    `forward` runs inside the wrapper of distributed training, so every parameter that it trains must be used in it.
    What it changes itself are buffers, in place: the loop undoes that where the loss is not finite.
    """

    loss_over_batch: bool = False
    """Whether the loss depends on which images share a batch (contrasts, distances between domains). Where it does not,
    it is the mean over images of a loss of each, and a batch may be trained on in micro-batches."""

    normalised_together: bool = True
    """Whether BatchNorm may take its statistics from the images of all processes, as it does from those of one."""

    def forward(self, batch: Batch) -> Output:
        """Loss and metrics of one batch."""
        raise NotImplementedError(f"{type(self).__name__} does not implement forward(batch) -> Output")

    def undecayed(self) -> set[str]:
        """Names of its own tokens and embeddings, which weight decay leaves alone; the backbone names its own."""
        return set()

    def after_step(self, progress: float) -> None:
        """Called once after each optimiser step; `progress` runs from 0 to 1 over the training.

        For what moves without gradients: a momentum encoder, the strength of a gradient reversal.
        """


def scalar(value: Tensor) -> Tensor:
    """A metric for the log: detached, float32, without dimensions."""
    return value.detach().to(torch.float32).mean()
