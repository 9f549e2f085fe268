"""Find blocks with spatial outputs, and convert their outputs to maps in any memory layout.

Shapes: B images, D width, H x W places, P prefix tokens (class and registers), L tokens.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_transfer.models.backbones import Backbone
from ssl_transfer.models.factory import probe

Layout = Literal["first", "last", "tokens"]


@dataclass(frozen=True, kw_only=True)
class SpatialBlock:
    """Block with spatial outputs."""

    name: str
    """Name of the block, as `summary` lists it."""
    module: nn.Module
    """The last of its modules with a spatial output."""
    layout: Layout
    """first: (B, D, H, W). last: (B, H, W, D). tokens: (B, P + H W, D)."""
    num_prefix_tokens: int
    """P."""

    def to_maps(self, output: Tensor) -> Tensor:
        """Convert an output of the module to (B, D, H, W)."""
        if self.layout == "first":
            return output
        if self.layout == "last":
            return output.permute(0, 3, 1, 2)
        side = math.isqrt(output.shape[1] - self.num_prefix_tokens)
        return output[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, (side, side))

    def from_maps(self, maps: Tensor, output: Tensor) -> Tensor:
        """Convert maps back to the module's layout; prefix tokens are those of `output`."""
        if self.layout == "first":
            return maps
        if self.layout == "last":
            return maps.permute(0, 2, 3, 1)
        return torch.cat([output[:, : self.num_prefix_tokens], maps.flatten(2).transpose(1, 2)], dim=1)


def spatial_blocks(backbone: Backbone) -> tuple[SpatialBlock, ...]:
    """List the blocks that have more than one place, in order of computation."""
    blocks = backbone.blocks()
    modules = {name: backbone.model.get_submodule(name) for block in blocks for name in block.modules}
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape)

        return hook

    with _hooked([(module, note(name)) for name, module in modules.items()]), torch.no_grad():
        backbone(probe(backbone.spec).to(backbone.mean.device))
    num_prefix = backbone.map_shape.num_prefix_tokens
    found = []
    for block in blocks:
        layouts = [(name, _layout(shapes[name], num_prefix)) for name in block.modules if name in shapes]
        for name, layout in reversed(layouts):
            if layout is not None:
                found.append(
                    SpatialBlock(name=block.name, module=modules[name], layout=layout[0], num_prefix_tokens=layout[1])
                )
                break
    return tuple(found)


def _layout(shape: tuple[int, ...], num_prefix: int) -> tuple[Layout, int] | None:
    """Determine the layout and P of an output of this shape; None without places."""
    if len(shape) == 4 and max(shape[1:]) > 1:
        # Images are squares, so their maps are.
        if shape[2] == shape[3] > 1:
            return "first", 0
        return ("last", 0) if shape[1] == shape[2] > 1 else None
    if len(shape) == 3:
        # What embeds the patches comes before the class token.
        for prefix in dict.fromkeys((num_prefix, 0)):
            count = shape[1] - prefix
            if count > 1 and math.isqrt(count) ** 2 == count:
                return "tokens", prefix
    return None


@torch.no_grad()
def maps_of(backbone: Backbone, blocks: Sequence[SpatialBlock], views: Tensor) -> list[Tensor]:
    """Compute each block's maps (B, D, H, W) of views (B, C, S, S) in 0..1, float32 on the CPU."""
    seen: dict[str, Tensor] = {}

    def keep(block: SpatialBlock) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            # A copy: what follows may write into it.
            seen[block.name] = block.to_maps(output).float().cpu().clone()

        return hook

    with _hooked([(block.module, keep(block)) for block in blocks]):
        backbone(views)
    return [seen[block.name] for block in blocks]


@contextlib.contextmanager
def routed(block: SpatialBlock, through: nn.Module) -> Iterator[None]:
    """Route the block's maps (B, D, H, W) through a module within the `with` block."""

    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return block.from_maps(through(block.to_maps(output)), output)

    with _hooked([(block.module, hook)]):
        yield


@contextlib.contextmanager
def _hooked(hooks: Sequence[tuple[nn.Module, Any]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def strongest(maps: Tensor, count: int) -> Tensor:
    """Return the positions of the `count` channels of maps (B, D, H, W) that vary most over images and places."""
    variance = maps.transpose(0, 1).flatten(1).var(dim=1)
    return variance.argsort(descending=True, stable=True)[:count]


def principal(maps: Tensor) -> Tensor:
    """Compute the first three principal components of maps, one colour each: (B, D, H, W) -> (B, H, W, 3) in 0..1.

    They are fitted over all places of all images, so that a colour has the same meaning everywhere. The sign of a
    component is arbitrary: its largest weight is made positive.
    """
    count, width, height, breadth = maps.shape
    places = maps.permute(0, 2, 3, 1).reshape(-1, width).double()
    centred = places - places.mean(dim=0)
    vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :3]
    largest = vectors.abs().argmax(dim=0)
    vectors = vectors * vectors[largest, torch.arange(vectors.shape[1])].sign()
    projected = torch.zeros(len(places), 3, dtype=torch.float64)
    projected[:, : vectors.shape[1]] = centred @ vectors
    # A hundredth at either end is cut off: single places would leave the rest in one colour.
    low, high = projected.quantile(0.01, dim=0), projected.quantile(0.99, dim=0)
    shown = ((projected - low) / (high - low).clamp_min(1e-12)).clamp(0.0, 1.0)
    return shown.reshape(count, height, breadth, 3).float()
