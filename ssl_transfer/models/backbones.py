"""Wrap networks of timm, torchvision and our own: features, maps, blocks in order of computation.

Shapes: B images, C channels, S pixels a side, D width, H x W the grid of a map, L tokens.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from timm.models import VisionTransformer, group_parameters
from torch import Tensor, nn

from ssl_transfer.engine.errors import InputError, reason_of
from ssl_transfer.models.layers.blocks import Block, ordered_blocks
from ssl_transfer.models.layers.execution_order import Order

from . import torchvision_models
from .factory import create, prefix_tokens, probe
from .layers import fx_graph as graphs
from .spec import SIMPLE_CNN, BackboneConfig, BackboneSpec, check_name, is_timm, is_vit_name, make_spec

TOKENS = ("cls_token", "reg_token", "dist_token", "pos_embed", "class_token", "pos_embedding")
"""Names in timm and torchvision of tokens and position embeddings."""


@dataclass(frozen=True, kw_only=True)
class MapShape:
    """Describe the output of `Backbone.maps` for one image."""

    features: int
    """D."""
    grid: tuple[int, int]
    """H and W; a transformer's patches a side."""
    num_prefix_tokens: int
    """Class and register tokens before the patches; 0 for a convolutional network."""
    has_class_token: bool
    """True where the first of them is a class token."""
    is_tokens: bool
    """True for maps (B, L, D), prefix tokens first, then patches row by row; False for (B, D, H, W)."""


_ORDERED: dict[Hashable, tuple[tuple[Block, ...], Order]] = {}
"""Orders of computation found so far: trials and runs of one process share a network's structure."""
_MOST_ORDERED = 64


class Backbone(nn.Module):
    """Compute features of images by a model without its classifier, with the normalisation of its weights."""

    mean: Tensor
    std: Tensor
    model: Any

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.spec = spec
        # Channels last: convolutions are 1.5 times as fast on a CPU, and fit tensor cores on a GPU.
        self.model = create(spec).to(memory_format=torch.channels_last)
        # Not persistent: the spec holds them, and the exported weights stay timm's own.
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)
        self.num_features = _num_features(self, spec)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise images (B, C, S, S) in 0..1 as in the training of the weights."""
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, S, S) in 0..1 to pooled features (B, num_features)."""
        return self.pool(self.model(self.normalize(images)))

    def pool(self, outputs: Tensor) -> Tensor:
        """Pool the model's outputs to (B, num_features). Maps, from a model of first blocks, are averaged."""
        if self.spec.keep_blocks is None or outputs.ndim == 2:
            return outputs
        maps = _channels_first(outputs)
        return maps[:, self._tokens[0] :].mean(dim=1) if maps.ndim == 3 else maps.mean(dim=(2, 3))

    def maps(self, images: Tensor) -> Tensor:
        """Map images (B, C, S, S) in 0..1 to features before the pooling, for heads that pool.

        Returns (B, D, H, W) from a convolutional network, and tokens (B, L, D) from a transformer, after its last norm
        where that precedes the pooling. Layers after the pooling are left out: the last convolution of MobileNetV3, the
        norm of ConvNeXt's head, the hidden layer of simple_cnn.
        """
        values = self.normalize(images)
        if self.spec.keep_blocks is not None:
            maps = _channels_first(self.model(values))
            # The last block may pool at its end.
            return maps[:, :, None, None] if maps.ndim == 2 else maps
        if torchvision_models.is_torchvision(self.spec.name):
            return _channels_first(graphs.runner(self.model, self._map_graph)(values))
        return _channels_first(self.model.forward_features(values))

    @cached_property
    def _map_graph(self) -> torch.fx.Graph:
        return torchvision_models.map_graph(self.model)

    @cached_property
    def map_shape(self) -> MapShape:
        """Return the shape of `maps`, found once with a black image in evaluation mode."""
        maps = _run_on_probe(self, self.maps)
        if maps.ndim == 4:
            return MapShape(
                features=maps.shape[1],
                grid=(maps.shape[2], maps.shape[3]),
                num_prefix_tokens=0,
                has_class_token=False,
                is_tokens=False,
            )
        count, has_class_token = self._tokens
        side = math.isqrt(maps.shape[1] - count)
        return MapShape(
            features=maps.shape[2],
            grid=(side, side),
            num_prefix_tokens=count,
            has_class_token=has_class_token,
            is_tokens=True,
        )

    @property
    def _tokens(self) -> tuple[int, bool]:
        """Return the number of tokens before the patches, and True where the first is a class token."""
        return prefix_tokens(self.model)

    @property
    def map_features(self) -> int:
        """Return D of `maps`."""
        return self.map_shape.features

    @property
    def is_vit(self) -> bool:
        """Return True for a plain vision transformer of timm."""
        return isinstance(self.model, VisionTransformer)

    def undecayed(self) -> set[str]:
        """Name the tokens and position embeddings, within this module: they get no weight decay."""
        if self._has_timm_groups:
            no_decay: set[str] = getattr(self.model, "no_weight_decay", set)()
        else:
            no_decay = {name for name, _ in self.model.named_parameters() if name.rpartition(".")[2] in TOKENS}
        return {f"model.{name}" for name in no_decay}

    def ordered(self) -> tuple[tuple[Block, ...], Order]:
        """Return the blocks in order of computation, and the order of modules and parameters.

        Takes one forward, for the first network of a kind.
        """
        kind = (
            self.spec,
            tuple((name, type(module)) for name, module in self.model.named_modules()),
            tuple(name for name, _ in [*self.model.named_parameters(), *self.model.named_buffers()]),
        )
        if kind not in _ORDERED:
            if len(_ORDERED) >= _MOST_ORDERED:
                _ORDERED.clear()
            _ORDERED[kind] = ordered_blocks(self.model, probe(self.spec).to(self.mean.device))
        return _ORDERED[kind]

    def blocks(self) -> tuple[Block, ...]:
        """Return the blocks in order of computation, under the model's own names (without `model.`)."""
        return self.ordered()[0]

    def layers(self) -> dict[str, int]:
        """Map each parameter's name, within this module, to the depth of its layer: 0 is the stem."""
        if not self._has_timm_groups:
            return {f"model.{name}": depth for depth, block in enumerate(self.blocks()) for name in block.parameters}
        groups = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        present = sorted({groups[name] for name, _ in self.model.named_parameters()})
        return {f"model.{name}": present.index(groups[name]) for name, _ in self.model.named_parameters()}

    @property
    def _has_timm_groups(self) -> bool:
        """Return True for a whole model of timm, whose layer groups timm describes."""
        return is_timm(self.spec.name) and self.spec.keep_blocks is None


def first_blocks(backbone: Backbone, count: int) -> Backbone:
    """Build a backbone of the first blocks, with copies of their weights; its features are the last map, averaged.

    It exports and loads as any other backbone: its spec has the number of blocks, and its state holds only these.

    Raises:
        InputError: the backbone has no more blocks than that.
    """
    if backbone.spec.keep_blocks is not None:
        raise InputError(f"{backbone.spec.label} keeps only some blocks already: start from the whole backbone.")
    # The weights are overwritten: drawing them must not change later random numbers.
    with torch.random.fork_rng(devices=[]):
        kept = Backbone(replace(backbone.spec, keep_blocks=count))
    state = backbone.model.state_dict()
    kept.model.load_state_dict({name: state[name] for name in kept.model.state_dict()})
    kept.train(backbone.training)
    return kept.to(backbone.mean.device)


def freeze(module: nn.Module) -> None:
    """Disable gradients and set evaluation mode. Keep it in evaluation mode, or its buffers change."""
    module.requires_grad_(False)
    module.eval()


def _num_features(backbone: Backbone, spec: BackboneSpec) -> int:
    """Return the width of the pooled features; timm's `num_features` ignores layers after the pooling.

    It runs one forward in evaluation mode, which changes no statistics and draws no random numbers.
    """
    try:
        features = _run_on_probe(backbone, backbone)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(
            f"{spec.label} does not take images of {spec.image_size} px ({reason_of(error)}). Give a larger "
            "--image-size, --backbone.stem small, or another backbone."
        ) from error
    return features.shape[1]


def _run_on_probe(backbone: Backbone, function: graphs.Step) -> Tensor:
    """Return a function's output for one black image, in evaluation mode; restore the modes of all modules."""
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        with torch.no_grad():
            return function(probe(backbone.spec).to(backbone.mean.device))
    finally:
        for module, training in modes.items():
            module.training = training


def _channels_first(maps: Tensor) -> Tensor:
    """Permute maps (B, H, W, D), as of Swin, to (B, D, H, W). Images are square, and so are their maps."""
    is_last = maps.ndim == 4 and maps.shape[1] == maps.shape[2] != maps.shape[3]
    return maps.permute(0, 3, 1, 2) if is_last else maps


__all__ = [
    "SIMPLE_CNN",
    "Backbone",
    "BackboneConfig",
    "BackboneSpec",
    "MapShape",
    "check_name",
    "first_blocks",
    "freeze",
    "is_vit_name",
    "make_spec",
]
