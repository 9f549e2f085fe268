"""What losses over the global batch need from other processes. Without processes, every function is the identity.

A loss over gathered rows is one number of all W processes' images. Each process takes it, or its share of it, the
gradient of a gathered row is summed over the processes, and the loop averages the processes' gradients, as it averages
their losses: what comes out is the gradient of the whole batch on one process. BatchNorm takes part in it
(`synchronized`) unless that is switched off, or the objective lives from statistics apart: then each process normalises
its B images by their own statistics, and evaluates with rank 0's.

Shapes: B rows of this process, W processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def num_processes() -> int:
    """The world size; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """This process's place among them, 0 .. num_processes() - 1."""
    return dist.get_rank() if num_processes() > 1 else 0


def broadcast_buffers(module: nn.Module) -> None:
    """Give every process rank 0's buffers: BatchNorm's statistics are each process's own between two steps."""
    if num_processes() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def maximum(x: Tensor) -> None:
    """Put the largest value over all processes into each place of a tensor."""
    if num_processes() > 1:
        dist.all_reduce(x, op=dist.ReduceOp.MAX)


def gather(x: Tensor) -> Tensor:
    """The rows of all processes in rank order, with gradient: (B, ...) -> (W * B, ...). Each process has the same B."""
    return _Gather.apply(x) if num_processes() > 1 else x


class _Gather(torch.autograd.Function):
    """Our own, because torch's differentiable `all_gather` is deprecated and what replaces it is private."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return gather_without_gradient(x)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        """Every process's loss depends on these rows, whose gradient is the sum: (W * B, ...) -> (B, ...)."""
        return total(gradient).chunk(num_processes())[dist.get_rank()]


def total(x: Tensor) -> Tensor:
    """The sum over processes, element by element, detached."""
    summed = x.detach().clone(memory_format=torch.contiguous_format)
    if num_processes() > 1:
        dist.all_reduce(summed)
    return summed


def gather_without_gradient(x: Tensor) -> Tensor:
    """The rows of all processes in rank order: (B, ...) -> (W * B, ...), detached. Every process has the same B."""
    if num_processes() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(num_processes())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)
