"""Configure optimisers, and build parameter groups with layer-wise learning-rate decay.

LARS (You, Gitman and Ginsburg 2017, equation 6) is for batches of thousands. It scales the step of each weight matrix w
with gradient g by the norms of both, with n the trust coefficient 0.001 and b the weight decay:

    step = learning rate * n |w| / (|g| + b |w|) * (g + b w), through momentum

Norms, biases, tokens and position embeddings get plain steps without decay, as in SimCLR and BYOL. timm implements it;
its momentum sums steps without the learning rate, as torch's SGD does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import Lars
from torch import nn

from ssl_transfer.engine.errors import InputError

from .lr_schedules import Schedule

TRUST_COEFFICIENT = 1e-3
"""LARS's coefficient n, in You et al. 2017 as in SimCLR and BYOL."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Configure the optimiser, its learning-rate schedule and its steps."""

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    """adamw (Loshchilov and Hutter 2019), sgd with Nesterov momentum, or lars (You et al. 2017). lars is for batches of
    thousands and needs larger rates: SimCLR's is 0.3 * batch / 256."""
    learning_rate: float = 1e-3
    """Peak learning rate, absolute: it is not scaled by the batch size."""
    weight_decay: float = 1e-4
    """Decay of weight matrices and kernels; norms, biases, tokens and position embeddings are never decayed."""
    warmup_steps: int = 50
    """Optimiser steps over which the rate rises linearly from zero; then it follows the schedule."""
    schedule: Schedule = "cosine"
    """After the warm-up the rate falls to zero along a cosine (cosine); falls to a sixth as 1 / (1 + 10 progress)^0.75,
    as in DANN's paper (inverse); falls where validation no longer improves (plateau); or stays (constant)."""
    plateau_factor: float = 0.1
    """Factor of the rate at a plateau."""
    plateau_patience: int = 2
    """Evaluations in a row without improvement that a plateau may last; after one more the rate falls."""
    clip_norm: float = 0.0
    """Largest norm of the gradient over all parameters; 0 does not clip."""
    accumulate: int = 1
    """Micro-batches of an optimiser step, computed in sequence to save memory. The batch size stays the images per
    optimiser step, and without BatchNorm the step stays the same. Not for losses over a batch (simclr, moco, mocov3,
    barlow, vicreg)."""
    momentum: float = 0.9
    """Share of the running gradient that is kept at each step: AdamW's beta 1, the momentum of sgd and lars."""
    ema_decay: float = 0.0
    """Decay per step of a moving average of the weights, for example 0.999. The average is evaluated and saved instead
    of the weights; 0 disables it."""
    sync_batch_norm: bool = True
    """With several processes: BatchNorm takes its statistics from the images of all, which equals training in one
    process. It costs one exchange more in each BatchNorm layer, forward and backward. Without it each process
    normalises its own images. MoCo never synchronises: it needs separate statistics."""
    second_momentum: float = 0.999
    """AdamW's decay of the squared gradient (beta 2). MAE's authors use 0.95; the other methods keep the default."""
    skip_limit: int = 10
    """Steps that may be skipped because of a non-finite loss, over the whole training; one more ends it."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise InputError(f"learning_rate {self.learning_rate}: it must be above 0, for example 1e-3.")
        if self.weight_decay < 0 or self.clip_norm < 0 or self.warmup_steps < 0:
            raise InputError(
                f"weight_decay {self.weight_decay}, clip_norm {self.clip_norm}, warmup_steps {self.warmup_steps}: "
                "none may be negative."
            )
        if not 0 < self.second_momentum < 1:
            raise InputError(f"second_momentum {self.second_momentum}: it must lie between 0 and 1.")
        if not 0 < self.momentum < 1:
            raise InputError(f"momentum {self.momentum}: it must lie between 0 and 1, usually 0.9.")
        if self.accumulate < 1:
            raise InputError(f"accumulate {self.accumulate}: it must be 1 or more; 1 takes a batch at once.")
        if self.skip_limit < 0:
            raise InputError(f"skip_limit {self.skip_limit}: 0 or more; 0 ends with the first loss that is not finite.")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay {self.ema_decay}: 0 or more and below 1.")
        if not 0 < self.plateau_factor < 1 or self.plateau_patience < 0:
            raise InputError(
                f"plateau_factor {self.plateau_factor}, plateau_patience {self.plateau_patience}: the factor must lie "
                "between 0 and 1, the patience be 0 or more."
            )
        if self.schedule != "plateau" and (self.plateau_factor, self.plateau_patience) != (0.1, 2):
            raise InputError(
                f"plateau_factor and plateau_patience would be ignored by the schedule {self.schedule}: leave them "
                "out, or use schedule plateau."
            )
        if self.name != "adamw" and self.second_momentum != 0.999:
            raise InputError(
                f"second_momentum is AdamW's and would be ignored by {self.name}: leave it out, or use adamw."
            )


def parameter_groups(
    module: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    undecayed: Iterable[str] = (),
    layers: Mapping[str, int] | None = None,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Put every trainable parameter of `module` into exactly one group with its own learning rate and decay.

    A group holds `params`, their `names`, `lr`, `weight_decay` and `decayed`: true for weight matrices, which decay and
    which LARS adapts.

    Args:
        module: its parameters with `requires_grad` are trained.
        learning_rate: absolute rate of the deepest layer.
        weight_decay: decay of parameters with two or more dimensions, except those in `undecayed`.
        undecayed: names of further parameters without decay (position embeddings, tokens).
        layers: depth by parameter name, 0 at the input; other names are deepest (the head).
        layer_decay: the rate of depth d is learning_rate * layer_decay ** (deepest - d) (Clark et al. 2020, ELECTRA).
    """
    layers = layers or {}
    deepest = max(layers.values(), default=-1) + 1
    skip = set(undecayed)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = layers.get(name, deepest)
        decayed = parameter.ndim > 1 and name not in skip
        group = groups.setdefault(
            (depth, decayed),
            {
                "params": [],
                "names": [],
                "lr": learning_rate * layer_decay ** (deepest - depth),
                "weight_decay": weight_decay if decayed else 0.0,
                "decayed": decayed,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise InputError("Nothing is left to train: every parameter is frozen.")
    return list(groups.values())


def make_optimizer(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Build the optimiser over these groups, each with its own rate and decay."""
    plain = [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups]
    if config.name == "sgd":
        return torch.optim.SGD(plain, lr=config.learning_rate, momentum=config.momentum, nesterov=True)
    if config.name == "lars":
        # By default timm's LARS does not adapt groups with a decay of 0, which makes it SGD.
        adapted = [{**one, "always_adapt": group["decayed"]} for one, group in zip(plain, groups, strict=True)]
        return Lars(adapted, lr=config.learning_rate, momentum=config.momentum, trust_coeff=TRUST_COEFFICIENT)
    betas = (config.momentum, config.second_momentum)
    return torch.optim.AdamW(plain, lr=config.learning_rate, betas=betas, fused=True)
