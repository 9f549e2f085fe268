"""What methods with a slowly moving second encoder share: the copy, how it follows, and two unlike views.

The momentum rises from its start to 1 along a cosine (Grill et al., "Bootstrap your own latent", NeurIPS 2020, section
3.3), with k of K steps done:

    momentum(k) = 1 - (1 - start) * (cos(pi k / K) + 1) / 2
"""

import copy
import math
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ssl_transfer.data.transforms.augment import AugmentConfig, augment
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.objective import Batch
from ssl_transfer.models.backbones import Backbone

M = TypeVar("M", bound=nn.Module)
Schedule = Literal["cosine", "constant"]

FIRST_VIEW = AugmentConfig(saturation=0.2, blur=1.0)
"""One view of each image in BYOL, DINO and MoCo version 3 (Grill et al. 2020, table 6), with our crops."""
SECOND_VIEW = replace(FIRST_VIEW, blur=0.1, solarise=0.2)
"""The other view: seldom blurred, now and then solarised."""


def check_momentum(momentum: float) -> None:
    """Raise InputError unless this can be a momentum."""
    if not 0.0 <= momentum <= 1.0:
        raise InputError(f"momentum {momentum}: between 0 and 1, usually 0.99 to 0.999.")


def copied(module: M) -> M:
    """A copy that gets no gradients. It stays in training mode, and its BatchNorm gathers statistics of its own."""
    return copy.deepcopy(module).requires_grad_(False)


def momentum_at(progress: float, *, start: float, schedule: Schedule = "cosine") -> float:
    """How much of the slow weights stays when `progress` of the training, 0 to 1, is done."""
    return start if schedule == "constant" else 1.0 - (1.0 - start) * 0.5 * (1.0 + math.cos(math.pi * progress))


@torch.no_grad()
def follow(*pairs: tuple[nn.Module, nn.Module], momentum: float) -> None:
    """Move each slow module's parameters towards its quick one's; buffers are left alone.

    Args:
        pairs: (slow, quick), equally built.
        momentum: how much of the slow ones stays.
    """
    for slow, quick in pairs:
        for mine, theirs in zip(slow.parameters(), quick.parameters(), strict=True):
            mine.lerp_(theirs, 1.0 - momentum)


def view_pair(batch: Batch, backbone: Backbone, first: AugmentConfig, second: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Two views of each image, each made in its own way: twice (B, C, S, S) at the backbone's size, in 0..1."""
    size = backbone.spec.image_size
    return (
        augment(batch.images, batch.keys, view=0, size=size, config=first),
        augment(batch.images, batch.keys, view=1, size=size, config=second),
    )
