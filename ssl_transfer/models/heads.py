"""Heads: what turns a backbone's features into class scores."""

import torch
from torch import Tensor, nn


class LinearHead(nn.Module):
    """A linear classifier on features that are first divided by one number, their root mean square.

    Backbones differ by orders of magnitude in the scale of their features, so without this one learning rate would
    suit one initialisation and not the other. One number, not one a dimension: a tiny sample's deviations per
    dimension ruin a sparse backbone.

    Args:
        num_features: D, the backbone's width.
        num_classes: K.
    """

    scale: Tensor

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.linear = nn.Linear(num_features, num_classes)
        nn.init.zeros_(self.linear.bias)
        nn.init.normal_(self.linear.weight, std=0.01)

    def calibrate(self, features: Tensor) -> None:
        """Set the scale from a sample of features (N, D)."""
        self.scale.copy_(features.detach().square().mean().sqrt().clamp_min(1e-6).reciprocal())

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> logits (B, K)."""
        return self.linear(features * self.scale)
