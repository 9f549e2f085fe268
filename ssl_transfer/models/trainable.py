"""Select the trained layers of a backbone: `head`, `all`, `last:2`, `first:3`, `from:features.12.conv.1`."""

import re
from dataclasses import dataclass

from torch import nn

from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.models.layers.blocks import Block
from ssl_transfer.models.layers.execution_order import Order

from .backbones import Backbone

ALLOWED = (
    "head (nothing of the backbone), all, last:N or first:N (its N last or first blocks), or from:NAME "
    "(a block or a module, and all that is computed after it starts)"
)
OUTPUT = "(output)"
"""Boundary of a wholly frozen backbone: its output."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Hold the trained and frozen parts of a backbone. Names are those within `backbone.model`."""

    trained: str
    """The word that selects it."""
    parameters: tuple[str, ...]
    """The trained parameters, in order of computation."""
    frozen: tuple[str, ...]
    """The outermost modules of which nothing is trained; '' is the whole model. They stay in evaluation mode, with all
    that they hold: neither weights nor statistics change, and dropout is off."""
    boundary: str | None
    """The first trained module, with everything before it frozen; OUTPUT when nothing is trained. None without such
    a point: nothing is frozen, or frozen layers come later."""


def select(backbone: Backbone, trained: str) -> Selection:
    """Resolve a word for a backbone, by one forward of one image.

    Raises:
        InputError: an unknown word or name, or more blocks than the backbone has.
    """
    if trained == "head":
        return Selection(trained=trained, parameters=(), frozen=("",), boundary=OUTPUT)
    if trained != "all" and not re.fullmatch(r"(last|first):\d+|from:.+", trained):
        raise InputError(f"{trained!r} says nothing that can be trained. Allowed: {ALLOWED}.")
    blocks, order = backbone.ordered()
    start, end, boundary = _range(trained, blocks, order)
    parameters = dict(backbone.model.named_parameters())
    moments = sorted(order.tensors.items(), key=lambda item: item[1])
    chosen = tuple(name for name, moment in moments if name in parameters and start <= moment < end)
    if not chosen:
        raise InputError(f"{trained}: there is nothing to train from there on. Name a layer with weights, or `head`.")
    if len(chosen) == len(parameters):
        return Selection(trained=trained, parameters=chosen, frozen=(), boundary=None)
    kept = {
        name
        for name, module in backbone.model.named_modules()
        if not any(True for _ in module.children()) and start <= order.modules.get(name, -1) < end
    }
    frozen = _outermost_frozen(backbone.model, "", kept | set(chosen))
    return Selection(trained=trained, parameters=chosen, frozen=tuple(frozen), boundary=boundary)


def apply(selection: Selection, backbone: Backbone) -> None:
    """Enable gradients of the trained part and disable all others. Call it before an optimiser is built."""
    wanted = set(selection.parameters)
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(name in wanted)
    hold(selection, backbone)


def hold(selection: Selection, backbone: Backbone) -> None:
    """Set the frozen part to evaluation mode; call it after every `train()` of the backbone or its holder."""
    for name in selection.frozen:
        backbone.model.get_submodule(name).eval()


def _range(trained: str, blocks: tuple[Block, ...], order: Order) -> tuple[int, float, str | None]:
    """Return the trained moments (first, and the end without it), and the boundary."""
    if trained == "all":
        return 0, float("inf"), None
    kind, _, value = trained.partition(":")
    starts = {block.name: block.modules[0] for block in blocks}
    if kind == "from":
        name = starts.get(value, value)
        if name not in order.modules or not name:
            known = dict.fromkeys([*starts, *(other for other in order.modules if other)])
            shown = ", ".join([*list(starts)[:2], "...", *list(starts)[-2:]])
            raise InputError(
                f"{trained}: the backbone computes no block or module of this name.{did_you_mean(value, known)} "
                f"Its blocks are {shown}; `ssl-transfer summary` lists them all."
            )
        return order.modules[name], float("inf"), name
    count = int(value)
    if not 1 <= count <= len(blocks):
        raise InputError(
            f"{trained}: this backbone has {len(blocks)} blocks. Allowed: {kind}:1 to {kind}:{len(blocks)}."
        )
    names = list(starts.values())
    if kind == "last":
        return order.modules[names[-count]], float("inf"), names[-count]
    return 0, float("inf") if count == len(blocks) else order.modules[names[count]], None


def _outermost_frozen(module: nn.Module, name: str, trained: set[str]) -> list[str]:
    prefix = f"{name}." if name else ""
    if name not in trained and not any(other.startswith(prefix) for other in trained):
        return [name]
    return [
        frozen
        for held, child in module.named_children()
        if name not in trained
        for frozen in _outermost_frozen(child, prefix + held, trained)
    ]
