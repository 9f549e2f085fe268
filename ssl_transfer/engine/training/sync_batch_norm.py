"""BatchNorm over the images of all processes, so that many processes train what one would.

torch's `nn.SyncBatchNorm` does so on GPUs and refuses the CPU, for which the same is written out here. Of a channel,
each of W processes has N values, their mean and their variance (the mean squared distance from it), which are exchanged
at once (Chan, Golub and LeVeque 1983, equation 2.1):

    mean = sum of means / W,    variance = sum of (variances + (means - mean)^2) / W
    z = (x - mean) / sqrt(variance + eps),    y = z * weight + bias

Backward, with g the gradient of z, and both sums over all values of all processes in one exchange:

    gradient of x = (g - sum g / (N W) - z * sum(g z) / (N W)) / sqrt(variance + eps)

A layer changes its class for the time of a training and keeps everything else. Optimiser, state and export see no
difference, nor does whoever holds the layer itself (a second set of statistics, a network that was cut).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn

from ssl_transfer.engine.distributed.collectives import gather_without_gradient, num_processes, total
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.training.objective import Objective


class SynchronizedBatchNorm(nn.SyncBatchNorm):
    """torch's on a GPU, and the same on a CPU. In evaluation mode it is plain BatchNorm."""

    process_group = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """(B, C, ...) of this process -> the same shape, normalised by the statistics of all processes."""
        if input.is_cuda or not self.training:
            return super().forward(input)
        # As native BatchNorm does, at least float32 whatever the precision.
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        with torch.autocast(input.device.type, enabled=False):
            y, mean, variance = _Normalized.apply(x, self.eps)
            count = _count(x)
            self._keep(mean, variance * count / (count - 1))
            if self.affine:
                y = y * _over(self.weight, y) + _over(self.bias, y)
        return y.to(input.dtype)

    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics; the variance is the unbiased one."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        # Without a momentum they are the mean over all batches.
        factor = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(variance.to(self.running_var.dtype), factor)


class _Normalized(torch.autograd.Function):
    """Of x (B, C, ...) and eps: (x - mean) / sqrt(variance + eps), and the two, (C,) each and without gradient."""

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
    """All dimensions but the channels'."""
    return [0, *range(2, x.ndim)]


def _over(channels: Tensor, x: Tensor) -> Tensor:
    """(C,) so that it fits to (B, C, ...)."""
    return channels.view(1, -1, *[1] * (x.ndim - 2))


def _count(x: Tensor) -> int:
    """Values of a channel over all processes, which have equally many."""
    return x.numel() // x.shape[1] * num_processes()


class SynchronizedBatchNormAct(SyncBatchNormAct, SynchronizedBatchNorm):
    """timm's layer of BatchNorm, dropout and activation."""


SYNCHRONIZED: dict[type[nn.Module], type[nn.modules.batchnorm._BatchNorm]] = {
    nn.BatchNorm1d: SynchronizedBatchNorm,
    nn.BatchNorm2d: SynchronizedBatchNorm,
    nn.BatchNorm3d: SynchronizedBatchNorm,
    BatchNormAct2d: SynchronizedBatchNormAct,
}
"""What stands for which layer during a training."""


@contextmanager
def synchronized(objective: Objective, *, wanted: bool, runtime: Runtime) -> Iterator[None]:
    """For the `with` block, BatchNorm layers of `objective` in training mode normalise over all processes.

    Nothing happens on one process, or where the objective says that it lives from statistics apart.

    Args:
        objective: every process's, equally built; to be wrapped for distributed training before this.
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
