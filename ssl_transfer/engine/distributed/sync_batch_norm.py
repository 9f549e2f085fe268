"""Normalise BatchNorm over the images of all processes, so that many processes train what one would.

torch's `nn.SyncBatchNorm` does so on GPUs and refuses the CPU. `SynchronizedBatchNorm` adds the CPU. For each channel,
each of W processes computes mean and variance (mean squared distance from the mean) of its N values, and all exchange
both at once (Chan, Golub and LeVeque 1983, equation 2.1):

    mean = sum of means / W,    variance = sum of (variances + (means - mean)^2) / W
    z = (x - mean) / sqrt(variance + eps),    y = z * weight + bias

Backward, with g the gradient of z, and both sums over all values of all processes in one exchange:

    gradient of x = (g - sum g / (N W) - z * sum(g z) / (N W)) / sqrt(variance + eps)

A layer changes its class during a training and keeps everything else. For the optimiser, the state and the export it is
the same layer, and so it is for other holders (a second set of statistics, a network that was cut).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn

from .collectives import gather_without_gradient, num_processes, total
from .runtime import Runtime


class SynchronizedBatchNorm(nn.SyncBatchNorm):
    """Normalise as torch's `SyncBatchNorm` does, on a CPU too. In evaluation mode it is plain BatchNorm."""

    process_group = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalise (B, C, ...) of this process by the statistics of all processes; the shape stays."""
        if input.is_cuda or not self.training:
            return super().forward(input)
        # At least float32 in any precision, as in native BatchNorm.
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        with torch.autocast(input.device.type, enabled=False):
            y, mean, variance = _Normalized.apply(x, self.eps)
            count = _count(x)
            self._keep(mean, variance * count / (count - 1))
            if self.affine:
                y = y * _over(self.weight, y) + _over(self.bias, y)
        return y.to(input.dtype)

    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics; the variance is unbiased."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        # Without a momentum they are the mean over all batches.
        factor = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(variance.to(self.running_var.dtype), factor)


class _Normalized(torch.autograd.Function):
    """Compute (x - mean) / sqrt(variance + eps) of x (B, C, ...), with mean and variance (C,), without gradient."""

    @staticmethod
    def forward(context: Any, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        variances, means = torch.var_mean(x, _others(x), correction=0)
        means, variances = gather_without_gradient(torch.stack([means, variances])[None]).unbind(1)
        mean = means.mean(dim=0)
        variance = (variances + (means - mean).square()).mean(dim=0)
        scale = (variance + eps).rsqrt()
        y = (x - _over(mean, x)) * _over(scale, x)
        context.save_for_backward(y, scale)
        context.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (y, scale), gradient = context.saved_tensors, gradients[0]
        # Every process's loss depends on mean and variance.
        sums = torch.stack([gradient.sum(_others(y)), (gradient * y).sum(_others(y))])
        through_mean, through_variance = total(sums) / _count(y)
        return (gradient - _over(through_mean, y) - y * _over(through_variance, y)) * _over(scale, y), None


def _others(x: Tensor) -> list[int]:
    """Return all dimensions except that of the channels."""
    return [0, *range(2, x.ndim)]


def _over(channels: Tensor, x: Tensor) -> Tensor:
    """Reshape (C,) so that it broadcasts over x (B, C, ...)."""
    return channels.view(1, -1, *[1] * (x.ndim - 2))


def _count(x: Tensor) -> int:
    """Return the number of values of a channel over all processes, which have equally many."""
    return x.numel() // x.shape[1] * num_processes()


class SynchronizedBatchNormAct(SyncBatchNormAct, SynchronizedBatchNorm):
    """Synchronise timm's layer of BatchNorm, dropout and activation."""


SYNCHRONIZED: dict[type[nn.Module], type[nn.modules.batchnorm._BatchNorm]] = {
    nn.BatchNorm1d: SynchronizedBatchNorm,
    nn.BatchNorm2d: SynchronizedBatchNorm,
    nn.BatchNorm3d: SynchronizedBatchNorm,
    BatchNormAct2d: SynchronizedBatchNormAct,
}
"""Layer class during a training, by the plain layer class."""


class Normalised(Protocol):
    """Describe a module with BatchNorm layers; an `Objective` is one."""

    normalised_together: bool
    """BatchNorm may take its statistics from the images of all processes."""

    def modules(self) -> Iterator[nn.Module]:
        """Iterate over the module and all its submodules."""


@contextmanager
def synchronized(objective: Normalised, *, wanted: bool, runtime: Runtime) -> Iterator[None]:
    """Synchronise the BatchNorm layers of `objective` over all processes, for the `with` block.

    Does nothing on one process, in evaluation mode, or where `normalised_together` is false.

    Args:
        objective: built alike on every process, and already wrapped for distributed training.
        wanted: `optimizer.sync_batch_norm`.
        runtime: the processes.
    """
    together = wanted and objective.normalised_together and runtime.num_processes > 1
    norms = [norm for norm in objective.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm) and together]
    plain = {norm: type(norm) for norm in norms if type(norm) in SYNCHRONIZED}
    if others := sorted({type(norm).__name__ for norm in norms if norm not in plain}):
        runtime.say(f"warning: {', '.join(others)} layers normalise each process's images by themselves.")
    for norm, kind in plain.items():
        norm.__class__ = SYNCHRONIZED[kind]
    try:
        yield
    finally:
        for norm, kind in plain.items():
            norm.__class__ = kind
