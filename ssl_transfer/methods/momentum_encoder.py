"""Share the momentum encoder between methods: its copy, its update, and the two unlike views.

The momentum rises from its start to 1 along a cosine (Grill et al., "Bootstrap your own latent", NeurIPS 2020, section
3.3), with k of K steps done:

    momentum(k) = 1 - (1 - start) * (cos(pi k / K) + 1) / 2
"""

import copy
import math
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import nn

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.engine.errors import InputError

M = TypeVar("M", bound=nn.Module)
Schedule = Literal["cosine", "constant"]

FIRST_VIEW = AugmentConfig(saturation=0.2, blur=1.0)
"""First view in BYOL, DINO and MoCo version 3 (Grill et al. 2020, table 6), with our crops."""
SECOND_VIEW = replace(FIRST_VIEW, blur=0.1, solarise=0.2)
"""Second view: seldom blurred, now and then solarised."""


def check_momentum(momentum: float) -> None:
    """Raise InputError for a momentum outside 0..1."""
    if not 0.0 <= momentum <= 1.0:
        raise InputError(f"momentum {momentum}: between 0 and 1, usually 0.99 to 0.999.")


def momentum_copy(module: M) -> M:
    """Copy a module without gradients. The copy stays in training mode; its BatchNorm gathers its own statistics."""
    return copy.deepcopy(module).requires_grad_(False)


def momentum_at(progress: float, *, start: float, schedule: Schedule = "cosine") -> float:
    """Return the momentum when `progress` of the training, 0 to 1, is done."""
    return start if schedule == "constant" else 1.0 - (1.0 - start) * 0.5 * (1.0 + math.cos(math.pi * progress))


@torch.no_grad()
def momentum_update(*pairs: tuple[nn.Module, nn.Module], momentum: float) -> None:
    """Update exponential moving averages of parameters; buffers stay.

    Args:
        pairs: (momentum copy, trained module).
        momentum: share of the copy's parameters that stays.
    """
    for copied, trained in pairs:
        for average, parameter in zip(copied.parameters(), trained.parameters(), strict=True):
            average.lerp_(parameter, 1.0 - momentum)
