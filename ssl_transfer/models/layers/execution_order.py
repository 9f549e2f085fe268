"""Observe the order in which a model computes: each module's start and each parameter's first use.

The order is observed in one forward, not taken from the order of registration. A parameter is recorded where an
operation takes it. So parameters without a module of their own (class tokens, position embeddings, the scale of a
residual branch) have a place as well.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, kw_only=True)
class Order:
    """Positions in the order of one forward, counted from 0."""

    modules: dict[str, int]
    """First position of each module that ran, or that holds one that ran or a tensor that was used."""
    tensors: dict[str, int]
    """First position of each parameter and buffer of a module that ran."""


class _Uses(TorchFunctionMode):
    """Records each tensor's first use as an argument of an operation."""

    def __init__(self, names: dict[int, str], moments: dict[str, int], clock: list[int]) -> None:
        super().__init__()
        self._names, self._moments, self._clock = names, moments, clock

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in [*args, *(kwargs or {}).values()]:
            for tensor in value if isinstance(value, (tuple, list)) else (value,):
                name = self._names.get(id(tensor))
                if name is not None and name not in self._moments:
                    self._moments[name] = self._clock[0]
                    self._clock[0] += 1
        return function(*args, **(kwargs or {}))


def observe(model: nn.Module, images: Tensor) -> Order:
    """Run a model once in evaluation mode, without gradients, and record the order.

    It draws no random numbers and restores the state and the mode of every module.

    Args:
        model: takes `images` alone.
        images: (B, C, S, S) float32, on the model's device.
    """
    clock = [0]
    modules: dict[str, int] = {}
    tensors: dict[str, int] = {}
    held = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}

    def note(name: str) -> Any:
        def hook(*_: Any) -> None:
            if name not in modules:
                modules[name] = clock[0]
                clock[0] += 1

        return hook

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in model.named_modules()]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), _Uses(held, tensors, clock):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    for name, moment in [*modules.items(), *tensors.items()]:
        for holder in holders(name):
            modules[holder] = min(modules.get(holder, moment), moment)
    # Evaluation leaves some alone, a count of batches for one: they belong to the moment of their module.
    for name in held.values():
        holder = name.rpartition(".")[0]
        if name not in tensors and holder in modules:
            tensors[name] = modules[holder]
    return Order(modules=modules, tensors=tensors)


def holders(name: str) -> list[str]:
    """List all modules that hold a module or tensor of this name: `a.b.c` -> `a.b`, `a` and the model, ``."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts))]


def is_within(name: str, holder: str) -> bool:
    """Test if a name is that of a module or of a part of it."""
    return name == holder or name.startswith(f"{holder}.")
