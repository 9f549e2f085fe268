"""Keep BatchNorm's statistics of the target domain beside the source's in the backbone.

They are kept apart in training (Chang et al., "Domain-specific batch normalization", CVPR 2019, without its separate
scales and shifts), or estimated from images without training (Li et al., "Revisiting batch normalization for practical
domain adaptation", ICLR 2017 workshop).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ssl_transfer.models.backbones import Backbone

from .supervised import batch_norms

_NAMES = ("running_mean", "running_var")


class TargetStatistics(nn.Module):
    """Hold the target's statistics; the backbone has the source's. Both start equal."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        # In a tuple, so that the backbone is no submodule.
        self._held = (backbone, kept_norms(backbone))
        for number, norm in enumerate(self._held[1]):
            for name in _NAMES:
                self.register_buffer(f"{name}_{number}", norm.get_buffer(name).clone())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the backbone the target's statistics for the `with` block, and keep their updates.

        The tensors themselves are exchanged, so that no tensor that a gradient needs is overwritten.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def estimate(self, views: Iterable[Tensor]) -> None:
        """Average the statistics over batches (B, C, S, S) of two images at least; change nothing else."""
        backbone, norms = self._held
        before = [(norm.momentum, norm.training, norm.get_buffer("num_batches_tracked")) for norm in norms]
        for norm, (_, _, tracked) in zip(norms, before, strict=True):
            # Without momentum BatchNorm averages over all batches, counted from 0.
            norm.momentum, norm.num_batches_tracked = None, torch.zeros_like(tracked)
            norm.train()
        with self.applied():
            for batch in views:
                backbone(batch)
        for norm, (momentum, training, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
            norm.train(training)

    def _exchange(self) -> None:
        for number, norm in enumerate(self._held[1]):
            for name in _NAMES:
                own = norm.get_buffer(name)
                setattr(norm, name, self.get_buffer(f"{name}_{number}"))
                setattr(self, f"{name}_{number}", own)


def kept_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """List the BatchNorm layers that keep statistics."""
    return [norm for norm in batch_norms(module) if norm.track_running_stats]
