"""What the rest of the house knows of a way to pretrain."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ssl_transfer.data.transforms.augment import AugmentConfig, augment
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.objective import Batch, Objective, scalar
from ssl_transfer.models.backbones import Backbone, BackboneConfig
from ssl_transfer.models.heads import MOST_LAYERS


class Reconstruction(NamedTuple):
    """What a method that paints was shown and what it made of it; each (B, C, S, S) float32, about 0..1."""

    seen: Tensor
    """The image as the network gets it: with noise, or with its hidden parts in one colour."""
    painted: Tensor
    """What it paints; where it paints hidden parts alone, these within the image."""
    target: Tensor
    """The image that it should have painted."""


class View(NamedTuple):
    """A view of an image that a method takes."""

    augment: AugmentConfig
    """How it is made."""
    side: float = 1.0
    """Its side, as a share of the image size."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to pretrain: its settings, its module, and the training that its paper gives it."""

    summary: str
    """One sentence for help texts and tables."""
    config: type
    """A frozen dataclass. Each field is an argument of `module`, its docstring is its help."""
    module: Callable[..., Objective]
    """`module(backbone, **fields of config)` is an `Objective` that trains `backbone` in place."""
    backbones: Literal["any", "vit"] = "any"
    """Whether every backbone can be trained so, or only plain vision transformers."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The default backbone."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The default optimiser."""
    epochs: int = 40
    """Default passes over the pool."""
    batch_size: int = 128
    """Default images per optimiser step."""
    views: Callable[[Any], tuple[View, ...]] = lambda settings: (View(settings.augment), View(settings.augment))
    """From its settings, the views of an image; a method that paints sees one."""
    fitted: Callable[[Any, int], Any] = lambda settings, _: settings
    """Its settings for a pool of so many images."""
    reconstruct: Callable[[Any, Batch], Reconstruction] | None = None
    """Of the module and a batch, for a method that paints; None for one that compares."""
    equal_loss: Callable[[int], float] | None = None
    """Of the batch size: the loss when all representations are equal. None where that is no sign of a collapse."""

    def build(self, backbone: nn.Module, config: Any) -> Objective:
        """The module that trains `backbone` with these settings."""
        arguments = {name: getattr(config, name) for name in config.__dataclass_fields__}
        return self.module(backbone, **arguments)


def check_counts(**values: int) -> None:
    """Raise InputError for a width, or another count, that is below 1."""
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} {value}: it must be 1 or more.")


def augmented(batch: Batch, backbone: Backbone, config: AugmentConfig, *, views: int = 2) -> Tensor:
    """Random views of each image at the backbone's size, (B, C, H, W) -> (views * B, C, S, S), view by view."""
    size = backbone.spec.image_size
    return torch.cat([augment(batch.images, batch.keys, view=v, size=size, config=config) for v in range(views)])


def mlp(widths: tuple[int, ...], *, norm_last: bool = False, bias_last: bool = True) -> nn.Sequential:
    """Linear layers of these widths with BatchNorm and ReLU between them: the projector of SimCLR and its followers.

    Args:
        widths: input, hidden ... output.
        norm_last: BatchNorm behind the last layer too.
        bias_last: whether the last layer has a bias; one that BatchNorm follows never has.
    """
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        last = index == len(widths) - 2
        normed = not last or norm_last
        layers.append(nn.Linear(before, after, bias=not normed and (bias_last or not last)))
        if normed:
            layers.append(nn.BatchNorm1d(after))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def projector(
    num_features: int, *, layers: int, hidden_width: int, output_width: int, bias_last: bool = True
) -> nn.Sequential:
    """An `mlp` from features (B, num_features) to projections (B, output_width), the hidden layers equally wide.

    Raises:
        InputError: fewer than two layers, more than anybody trains, or no width.
    """
    check_counts(hidden_width=hidden_width, output_width=output_width)
    if not 2 <= layers <= MOST_LAYERS:
        raise InputError(f"projector_layers {layers}: 2 to {MOST_LAYERS}; one layer would have no hidden width.")
    return mlp((num_features, *[hidden_width] * (layers - 1), output_width), bias_last=bias_last)


def deviations(features: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    """For the log of a method that compares views: the deviations of features (N, D) and of a head's outputs (N, P).

    A head may collapse long before the backbone does, as its outputs alone are what the loss sees.
    """
    return {
        "feature_deviation": scalar(feature_deviation(features)),
        "output_deviation": scalar(feature_deviation(outputs)),
    }


def feature_deviation(features: Tensor) -> Tensor:
    """Mean over dimensions of the deviation of L2-normalised features (B, D) over the batch, times sqrt(D).

    Near 1 for features spread over the sphere, near 0 when they have collapsed into a point (Chen and He 2021, section
    4.1, of a projector's outputs).
    """
    unit = nn.functional.normalize(features.detach().float(), dim=1)
    return unit.std(dim=0).mean() * features.shape[1] ** 0.5
