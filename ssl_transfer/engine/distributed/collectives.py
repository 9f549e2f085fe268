"""Gather, sum and broadcast over processes, with gradients. On one process every function is the identity.

A loss over gathered rows is one number of all W processes' images. Each process computes it, or its share of it. The
gradient of a gathered row is summed over the processes, and the loop averages the processes' gradients, as it averages
their losses. The result is the gradient of the whole batch on one process. BatchNorm takes part
(`sync_batch_norm.synchronized`) unless it is switched off or the objective needs separate statistics. Then each process
normalises its B images by their own statistics, and evaluates with rank 0's.

Shapes: B rows of this process, W processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def num_processes() -> int:
    """Return the world size; 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Return the rank of this process, 0 .. num_processes() - 1."""
    return dist.get_rank() if num_processes() > 1 else 0


def broadcast_buffers(module: nn.Module) -> None:
    """Copy rank 0's buffers to every process: BatchNorm statistics differ between processes."""
    if num_processes() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def maximum(x: Tensor) -> None:
    """Replace each element of a tensor by its maximum over all processes."""
    if num_processes() > 1:
        dist.all_reduce(x, op=dist.ReduceOp.MAX)


def gather(x: Tensor) -> Tensor:
    """Gather rows in rank order, with gradient: (B, ...) -> (W * B, ...). Every process has the same B."""
    return _Gather.apply(x) if num_processes() > 1 else x


class _Gather(torch.autograd.Function):
    """Gather with gradient. torch's differentiable `all_gather` is deprecated, and its replacement is private."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return gather_without_gradient(x)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        """Sum the gradients of all processes' losses: (W * B, ...) -> (B, ...)."""
        return total(gradient).chunk(num_processes())[dist.get_rank()]


def total(x: Tensor) -> Tensor:
    """Sum over processes, element by element, detached."""
    summed = x.detach().clone(memory_format=torch.contiguous_format)
    if num_processes() > 1:
        dist.all_reduce(summed)
    return summed


def gather_without_gradient(x: Tensor) -> Tensor:
    """Gather rows in rank order, detached: (B, ...) -> (W * B, ...). Every process has the same B."""
    if num_processes() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(num_processes())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)
