"""Compute the gradient of one optimiser step, of the whole batch or of micro-batches in turn."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError

from .objective import Batch, Objective, Output


def check_accumulation(objective: Objective, accumulate: int, runtime: Runtime) -> None:
    """Refuse micro-batches for a loss over the batch, and warn of BatchNorm.

    Call this with the objective in training mode.

    Raises:
        InputError: the loss of the objective is not a mean over images.
    """
    if accumulate == 1:
        return
    if objective.loss_over_batch:
        raise InputError(
            f"--optimizer.accumulate {accumulate}: {type(objective).__name__} compares the images of a batch with each "
            "other, so that micro-batches would train something else. Leave it at 1; where memory is short, lower "
            "--batch-size, take --mixed-precision bf16, or launch more processes."
        )
    normalised = [module for module in objective.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if any(module.training for module in normalised):
        runtime.say(
            f"warning: --optimizer.accumulate {accumulate} with BatchNorm: each micro-batch is normalised by its own "
            "statistics, so the steps are near those of the whole batch and not the same."
        )


def split(batch: Batch, count: int) -> list[Batch]:
    """Split a batch into `count` micro-batches whose sizes differ by at most one image; fewer for fewer images."""
    count = min(count, len(batch.images))
    return [Batch(*parts) for parts in zip(*(tensor.tensor_split(count) for tensor in batch), strict=True)]


def accumulate_gradient(wrapped: nn.Module, batch: Batch, accumulate: int, accelerator: Any) -> Output:
    """Add the gradient of the batch's mean loss to the parameters' gradients, in `accumulate` parts.

    Each part's mean is weighted by its share of the images, so that the sum is the mean of the whole batch. Processes
    exchange gradients once, with the last part.

    Args:
        wrapped: the objective as `accelerator.prepare_model` returns it.
        batch: this process's images.
        accumulate: number of parts; see `split`.
        accelerator: scales the loss in fp16.

    Returns:
        Loss and metrics of the whole batch, detached. Every metric is averaged over images too.
    """
    parts = split(batch, accumulate)
    total, totals = torch.zeros((), device=batch.images.device), dict[str, Tensor]()
    for number, part in enumerate(parts, start=1):
        share = len(part.images) / len(batch.images)
        with accelerator.no_sync(wrapped) if number < len(parts) else contextlib.nullcontext():
            loss, metrics = wrapped(part)
            total = total + loss.detach() * share
            # A single part keeps its bits.
            accelerator.backward(loss if share == 1.0 else loss * share)
        for name, value in metrics.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value * share
    return Output(total, totals)
