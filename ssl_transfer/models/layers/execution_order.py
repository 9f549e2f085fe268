"""The order in which a model computes: when each module starts and when each parameter is first used.

It is observed in one forward, not read from the order in which the constructor happened to register things. A
parameter is seen where an operation takes it, so those that no module of their own holds (class tokens, position
embeddings, the scale of a residual branch) have their place like any other.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, kw_only=True)
class Order:
    """Moments count up from 0 over one forward."""

    modules: dict[str, int]
    """For each module that ran, or that holds one that ran or a tensor that was used, its first moment."""
    tensors: dict[str, int]
    """For each parameter and buffer of a module that ran, its first moment."""


class _Uses(TorchFunctionMode):
    """Notes when each of the given tensors is first an argument of an operation."""

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
    """Run a model once in evaluation mode, without gradients, and note what happened when.

    It draws no random numbers and leaves the state and the mode of every module as they were.

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
    """The names of all modules that hold a module or tensor of this name: `a.b.c` -> `a.b`, `a` and the model, ``."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts))]


def is_within(name: str, holder: str) -> bool:
    """Whether a name is that of a module or of something inside it."""
    return name == holder or name.startswith(f"{holder}.")
