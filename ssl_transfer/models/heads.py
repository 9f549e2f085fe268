"""Build heads that map a backbone's features to class scores: a scale, pooling and layers.

Shapes: B images, D features, H x W places of a convolutional map, L tokens (prefix tokens first), K classes; T scores:
K, or one for two classes.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssl_transfer.engine.errors import InputError

from .backbones import Backbone

WIDTH, NARROW = 256, 100
"""Widths of hidden layers."""

MOST_LAYERS = 64
"""Layers of any module on a backbone, at most: a mistyped digit must not fill the memory."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Set up the head on a backbone."""

    kind: Literal["linear", "hidden", "hidden-100-100", "flatten-256"] = "linear"
    """linear: one layer. hidden: BatchNorm, a layer of 256, ReLU, a layer. hidden-100-100: two layers of 100, each with
    ReLU, and a layer (the label predictor of DANN's authors for digits). flatten-256: the whole map in a row, a layer
    of 256, ReLU, a layer (the head of the early Keras tutorials)."""
    pooling: Literal["backbone", "average", "max", "token", "attention"] = "backbone"
    """backbone: as the backbone itself pools. average and max over the places of its map; token: a transformer's class
    token; attention: an average weighted by a learned query (Ilse et al. 2018, equation 8)."""
    dropout: float = 0.0
    """Dropout probability in training, before the last layer."""
    one_logit: bool = False
    """Separate two classes by one score with binary cross-entropy, instead of a score each."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"head.dropout {self.dropout}: 0 or more and below 1.")
        if self.kind == "flatten-256" and self.pooling != "backbone":
            raise InputError(f"head.pooling {self.pooling} would be ignored by flatten-256, which takes the whole map.")


class Head(nn.Module):
    """Compute scores from features divided by one number, their root mean square.

    The features of backbones differ by orders of magnitude in scale. Without the division, no learning rate would suit
    all initialisations. One number, not one a dimension: the deviations of a tiny sample per dimension ruin a sparse
    backbone.

    Args:
        pool: (B, ...) -> (B, D').
        layers: (B, D') -> (B, T).
        takes_maps: the input of `pool` is the backbone's map (`Backbone.maps`), not its pooled features.
    """

    scale: Tensor

    def __init__(self, pool: nn.Module, layers: nn.Sequential, *, takes_maps: bool) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.pool, self.layers, self.takes_maps = pool, layers, takes_maps
        last: Any = layers[-1]
        nn.init.zeros_(last.bias)
        nn.init.normal_(last.weight, std=0.01)

    def calibrate(self, features: Tensor) -> None:
        """Set the scale from a sample of features (N, D) or maps (N, ...)."""
        self.scale.copy_(features.detach().square().mean().sqrt().clamp_min(1e-6).reciprocal())

    def pooled(self, features: Tensor) -> Tensor:
        """Scale and pool features (B, D), or maps where `takes_maps`, to the input of the layers, (B, D')."""
        return self.pool(features * self.scale)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, D), or maps where `takes_maps`, to scores (B, T)."""
        return self.layers(self.pooled(features))


def features_for(head: Head, backbone: Backbone, images: Tensor) -> Tensor:
    """Compute the head's input, features or maps, from images (B, C, S, S) in 0..1."""
    return backbone.maps(images) if head.takes_maps else backbone(images)


def class_scores(scores: Tensor) -> Tensor:
    """Map a head's scores (B, T) to one score a class, (B, K) float32.

    One score for two classes becomes two with the same probabilities: softmax of (0, x) is the sigmoid of x.
    """
    scores = scores.float()
    return scores if scores.shape[1] > 1 else torch.cat([torch.zeros_like(scores), scores], dim=1)


def make_head(config: HeadConfig, backbone: Backbone, num_classes: int) -> Head:
    """Build a new head for a backbone.

    Raises:
        InputError: one logit for more or fewer than two classes; a class token where the backbone has none.
    """
    if config.one_logit and num_classes != 2:
        raise InputError(f"head.one_logit tells two classes apart; these are {num_classes}. Leave it out.")
    num_scores = 1 if config.one_logit else num_classes
    if config.kind == "flatten-256":
        pool: nn.Module = nn.Flatten()
        shape = backbone.map_shape
        width = (shape.num_prefix_tokens + math.prod(shape.grid)) * shape.features
    elif config.pooling == "backbone":
        pool, width = nn.Identity(), backbone.num_features
    else:
        shape = backbone.map_shape
        if config.pooling == "token" and not shape.has_class_token:
            raise InputError("head.pooling token: this backbone has no class token. Use average, max or attention.")
        pool, width = Pooling(config.pooling, shape.features, shape.num_prefix_tokens), shape.features
    hidden: list[nn.Module] = []
    if config.kind == "hidden-100-100":
        for _ in range(2):
            hidden += [*_dropout(config.dropout), nn.Linear(width, NARROW), nn.ReLU()]
            width = NARROW
    elif config.kind != "linear":
        normed = [nn.BatchNorm1d(width)] if config.kind == "hidden" else []
        hidden, width = [*normed, *_dropout(config.dropout), nn.Linear(width, WIDTH), nn.ReLU()], WIDTH
    layers = nn.Sequential(*hidden, *_dropout(config.dropout), nn.Linear(width, num_scores))
    return Head(pool, layers, takes_maps=not isinstance(pool, nn.Identity))


def _dropout(share: float) -> list[nn.Module]:
    return [nn.Dropout(share)] if share else []


class Pooling(nn.Module):
    """Pool a map (B, D, H, W) or tokens (B, L, D) to (B, D)."""

    def __init__(self, kind: str, num_features: int, num_prefix_tokens: int) -> None:
        super().__init__()
        self.kind, self._prefix = kind, num_prefix_tokens
        self.query = nn.Linear(num_features, 1) if kind == "attention" else None

    def forward(self, maps: Tensor) -> Tensor:
        """Pool as `kind` says; prefix tokens are left out, but for kind `token`."""
        places = maps.flatten(2).transpose(1, 2) if maps.ndim == 4 else maps
        if self.kind == "token":
            return places[:, 0]
        places = places[:, self._prefix :]
        if self.query is not None:
            return (self.query(places).softmax(dim=1) * places).sum(dim=1)
        return places.amax(dim=1) if self.kind == "max" else places.mean(dim=1)
