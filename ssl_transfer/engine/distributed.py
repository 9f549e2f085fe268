"""What losses over the global batch need from other processes. Without processes, every function is the identity."""

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


def gather_without_gradient(x: Tensor) -> Tensor:
    """The rows of all processes in rank order: (B, ...) -> (W * B, ...), detached. Every process has the same B."""
    if num_processes() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(num_processes())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)
