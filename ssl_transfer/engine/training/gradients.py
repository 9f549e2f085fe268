"""The gradient of one optimiser step, of the whole batch at once or of micro-batches one after the other."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.objective import Batch, Objective, Output


def check_accumulation(objective: Objective, accumulate: int, runtime: Runtime) -> None:
    """Refuse micro-batches where they would train something else, and say where they do so in part.

    To be called with the objective in training mode.

    Raises:
        InputError: the objective's loss is not a mean over images.
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
    """`count` micro-batches whose sizes differ by at most one image; of fewer images, one each."""
    count = min(count, len(batch.images))
    return [Batch(*parts) for parts in zip(*(tensor.tensor_split(count) for tensor in batch), strict=True)]


def accumulate_gradient(wrapped: nn.Module, batch: Batch, accumulate: int, accelerator: Any) -> Output:
    """Add the gradient of this batch's mean loss to the parameters', in `accumulate` parts.

    Each part's mean is weighted by its share of the images, so that the sum is the whole batch's mean. Processes
    exchange gradients once, with the last part.

    Args:
        wrapped: the objective as `accelerator.prepare_model` gave it.
        batch: this process's images.
        accumulate: number of parts; see `split`.
        accelerator: accelerate's, which scales the loss where the precision asks for it.

    Returns:
        The whole batch's loss and metrics, detached; a metric is taken to be a mean over images too.
    """
    parts = split(batch, accumulate)
    total, totals = torch.zeros((), device=batch.images.device), dict[str, Tensor]()
    for number, part in enumerate(parts, start=1):
        share = len(part.images) / len(batch.images)
        with accelerator.no_sync(wrapped) if number < len(parts) else contextlib.nullcontext():
            loss, metrics = wrapped(part)
            total = total + loss.detach() * share
            # A lone part is left as it is, to the bit.
            accelerator.backward(loss if share == 1.0 else loss * share)
        for name, value in metrics.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value * share
    return Output(total, totals)
