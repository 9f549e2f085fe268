"""Parameter groups, layer-wise decay of the learning rate, optimisers and schedules."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from .errors import InputError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights are stepped."""

    name: Literal["adamw", "sgd"] = "adamw"
    """adamw (Loshchilov and Hutter 2019) or sgd with Nesterov momentum 0.9."""
    learning_rate: float = 1e-3
    """Peak learning rate, absolute: it is not scaled by the batch size."""
    weight_decay: float = 1e-4
    """Decay of weight matrices and kernels; norms, biases, tokens and position embeddings are never decayed."""
    warmup_steps: int = 50
    """Optimiser steps over which the rate rises linearly from zero; then it falls to zero along a cosine."""
    clip_norm: float = 0.0
    """Largest norm of the gradient over all parameters; 0 does not clip."""
    second_momentum: float = 0.999
    """AdamW's decay of the squared gradient (beta 2). MAE's authors use 0.95. Sgd has none: leave it there."""

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
        if self.name == "sgd" and self.second_momentum != 0.999:
            raise InputError("second_momentum is AdamW's and would be ignored by sgd: leave it out, or use adamw.")


def parameter_groups(
    module: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    undecayed: Iterable[str] = (),
    layers: Mapping[str, int] | None = None,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Every trainable parameter of `module` in exactly one group with its own rate and decay.

    Args:
        module: its parameters with `requires_grad` are taken.
        learning_rate: of the deepest layer, in absolute terms.
        weight_decay: of parameters with two or more dimensions that `undecayed` does not name.
        undecayed: names of further parameters without decay (position embeddings, tokens).
        layers: for a parameter's name its depth, 0 at the input; names left out lie deepest of all (the head).
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
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise InputError("Nothing is left to train: every parameter is frozen.")
    return list(groups.values())


def make_optimizer(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser over these groups; the rate and the decay are the groups' own."""
    groups = [{key: value for key, value in group.items() if key != "names"} for group in groups]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.second_momentum), fused=True)


def warmup_cosine(step: int, num_steps: int, warmup_steps: int) -> float:
    """The factor on the learning rate at `step` (from 0): a linear rise, then half a cosine down to 0.

    A function of the step alone, so a resumed run needs no schedule state. A warm-up as long as the training or
    longer is cut to a tenth of it, or it would never reach its rate.
    """
    warmup = warmup_steps if warmup_steps < num_steps else num_steps // 10
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))
