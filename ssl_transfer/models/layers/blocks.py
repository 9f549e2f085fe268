"""Divide a backbone into blocks, in order of computation.

A residual, inverted residual, transformer, dense or Inception block is one block. Consecutive bare layers (convolution,
norm, activation) form one block that ends with their pooling, so VGG16 has five. A layer after a block without a matrix
or kernel, such as a norm, belongs to that block.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from ssl_transfer.engine.errors import InputError

from .execution_order import Order, is_within, observe

STEM = "stem"
"""Name of the bare layers before the first block proper."""
_SEQUENCES = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Block of a model. Names are those of the model: timm's or torchvision's own, as in the exported weights."""

    name: str
    """`stem`, `layer1.0`, `features.12`."""
    modules: tuple[str, ...]
    """Its outermost modules, in order of computation; the first one starts it."""
    parameters: tuple[str, ...]
    """In order of computation. Over all blocks every parameter of the model appears once."""
    buffers: tuple[str, ...]
    """Likewise."""


@dataclass(frozen=True, kw_only=True)
class _Item:
    """Part of a block: a whole block, a bare layer, or a parameter of the model itself."""

    name: str
    kind: str
    """block, weight (a bare layer with a matrix or kernel), norm (vectors only), pool, other (nothing to train)."""


def ordered_blocks(model: nn.Module, images: Tensor) -> tuple[tuple[Block, ...], Order]:
    """Divide a model into blocks in order of computation, and return that order.

    Args:
        model: takes `images` alone.
        images: (B, C, S, S) float32, on the model's device; only their shape matters.

    Raises:
        InputError: the model holds parameters that a forward does not use.
    """
    order = observe(model, images)
    idle = sorted(name for name, _ in model.named_parameters() if name not in order.tensors)
    if idle:
        raise InputError(
            f"This network holds layers that never compute ({', '.join(idle[:3])}): they cannot be put in order. "
            "Build it without them, as with --backbone.arguments aux_logits=False."
        )
    items = sorted(_items(model, "", order), key=lambda item: _start(item, order))
    parts = _merge(items)
    mixed = any(item.kind == "block" for item in items)
    tensors = sorted(order.tensors, key=order.tensors.__getitem__)
    parameters = dict(model.named_parameters())
    buffers = dict(model.named_buffers())
    return tuple(
        Block(
            name=STEM if mixed and number == 0 and part[0].kind != "block" else part[0].name,
            modules=tuple(item.name for item in part if item.name in order.modules),
            parameters=tuple(name for name in tensors if name in parameters and _holds(part, name)),
            buffers=tuple(name for name in tensors if name in buffers and _holds(part, name)),
        )
        for number, part in enumerate(parts)
    ), order


def _start(item: _Item, order: Order) -> int:
    return order.modules[item.name] if item.name in order.modules else order.tensors[item.name]


def _holds(part: list[_Item], name: str) -> bool:
    return any(is_within(name, item.name) for item in part)


def _items(module: nn.Module, name: str, order: Order) -> list[_Item]:
    """List the parts of a module: itself, where it is a block or a bare layer."""
    if name and not _is_stage(module):
        return [_Item(name=name, kind=_kind(module))]
    prefix = f"{name}." if name else ""
    items = []
    for held, child in module.named_children():
        if prefix + held in order.modules:
            items += _items(child, prefix + held, order)
    for held, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        items.append(_Item(name=prefix + held, kind="norm"))
    return items


def _kind(module: nn.Module) -> str:
    if _num_weights(module) > 1:
        return "block"
    if _num_weights(module) == 1:
        return "weight"
    if any(True for _ in module.parameters()):
        return "norm"
    return "pool" if any("Pool" in type(inner).__name__ for inner in module.modules()) else "other"


def _num_weights(module: nn.Module) -> int:
    """Count the inner modules that hold a matrix or a kernel."""
    return sum(any(parameter.ndim > 1 for parameter in inner.parameters(recurse=False)) for inner in module.modules())


def _is_stage(module: nn.Module) -> bool:
    """Test if a module is a row of blocks rather than a block.

    A stage is any sequence of more than one layer with weights, and any module that holds a row of blocks. Such a row
    has only children of one class that are blocks themselves, directly or in a sequence (ConvNeXt's and RegNet's
    stages, an encoder).
    """
    if _num_weights(module) < 2:
        return False
    if isinstance(module, _SEQUENCES) or type(module) is nn.Module:
        return True
    return any(_is_row(row) for row in (module, *(child for child in module.children() if type(child) in _SEQUENCES)))


def _is_row(module: nn.Module) -> bool:
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    kinds = {type(child) for child in children}
    return len(kinds) == 1 and not issubclass(kinds.pop(), _SEQUENCES) and all(map(_is_composite, children))


def _is_composite(module: nn.Module) -> bool:
    return _num_weights(module) > 1 and any(True for _ in module.children())


def _merge(items: list[_Item]) -> list[list[_Item]]:
    """Merge items in order of computation into the items of each block."""
    parts: list[list[_Item]] = []
    is_open = False
    for item in items:
        if item.kind == "block":
            parts.append([item])
            is_open = False
        elif is_open or (parts and item.kind != "weight"):
            parts[-1].append(item)
            is_open = is_open and item.kind != "pool"
        else:
            parts.append([item])
            is_open = item.kind != "pool"
    # Layers without weights that come before anything else, a pooling for one, start the first block.
    while len(parts) > 1 and not any(item.kind in ("block", "weight", "norm") for item in parts[0]):
        parts[1] = parts.pop(0) + parts[0]
    return parts
