"""Describe a pretraining method; share views, projectors, checks and log values between methods."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from ssl_transfer.data.transforms.augment import AugmentConfig, augment
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.objective import Batch, Objective, scalar
from ssl_transfer.models.backbones import Backbone, BackboneConfig
from ssl_transfer.models.heads import MOST_LAYERS


class Reconstruction(NamedTuple):
    """Hold input, output and target of a reconstruction; each (B, C, S, S) float32, about 0..1."""

    seen: Tensor
    """Input of the network: the image with noise, or with its masked parts in one colour."""
    reconstructed: Tensor
    """Output of the network; where it reconstructs masked parts alone, these within the image."""
    target: Tensor
    """The image to reconstruct."""


class View(NamedTuple):
    """Describe one view of an image."""

    augment: AugmentConfig
    """Its augmentation."""
    side: float = 1.0
    """Its side, as a share of the image size."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """Describe a pretraining method: its settings, its module and its default training."""

    summary: str
    """One sentence for help texts and tables."""
    config: type
    """A frozen dataclass of settings; the docstring of a field is its help."""
    module: Callable[[Backbone, Any], Objective]
    """`module(backbone, config)` is an `Objective` that trains `backbone` in place."""
    backbones: Literal["any", "vit"] = "any"
    """The backbones that it can train: any, or plain vision transformers only."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The default backbone."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The default optimiser."""
    epochs: int = 40
    """Default passes over the pool."""
    batch_size: int = 128
    """Default images per optimiser step."""
    views: Callable[[Any], tuple[View, ...]] = lambda config: (View(config.augment), View(config.augment))
    """The views of an image, from the config; a method that reconstructs has one."""
    fitted: Callable[[Any, int], Any] = lambda config, _: config
    """The config for a pool of so many images."""
    reconstruct: Callable[[Any, Batch], Reconstruction] | None = None
    """A function of the module and a batch, for a method that reconstructs; None for any other."""
    equal_loss: Callable[[int], float] | None = None
    """A function of the batch size: the loss when all representations are equal. None where that is no collapse."""


class ProjectorSettings(Protocol):
    """Read the settings of a projector from the config of any method that has them."""

    @property
    def projector_layers(self) -> int:
        """Linear layers."""

    @property
    def hidden_width(self) -> int:
        """Width of all layers but the last."""

    @property
    def output_width(self) -> int:
        """P."""


def check_counts(**values: int) -> None:
    """Raise InputError for a width, or another count, that is below 1."""
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} {value}: it must be 1 or more.")


def check_projector(config: ProjectorSettings) -> None:
    """Raise InputError for settings that make no projector, or one with layers beyond any use."""
    check_counts(hidden_width=config.hidden_width, output_width=config.output_width)
    if not 2 <= config.projector_layers <= MOST_LAYERS:
        raise InputError(
            f"projector_layers {config.projector_layers}: 2 to {MOST_LAYERS}; one layer would have no hidden width."
        )


def make_views(batch: Batch, size: int, *augments: AugmentConfig, first: int = 0) -> list[Tensor]:
    """Augment the images of a batch once for each setting.

    Args:
        batch: images (B, C, H, W) in 0..1, and the keys of their random numbers.
        size: S, pixels a side.
        augments: a setting for each view.
        first: number of the first view; views of other numbers have other random numbers.

    Returns:
        For each setting, (B, C, S, S) in 0..1.
    """
    return [
        augment(batch.images, batch.keys, view=view, size=size, config=config)
        for view, config in enumerate(augments, start=first)
    ]


def mlp(widths: tuple[int, ...], *, norm_last: bool = False, bias_last: bool = True) -> nn.Sequential:
    """Build linear layers with BatchNorm and ReLU between them.

    Args:
        widths: input, hidden ... output.
        norm_last: BatchNorm behind the last layer too.
        bias_last: a bias in the last layer; a layer with BatchNorm behind it never has one.
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


def projector(num_features: int, config: ProjectorSettings, *, bias_last: bool = True) -> nn.Sequential:
    """Build an `mlp` from features (B, num_features) to projections (B, P)."""
    hidden = [config.hidden_width] * (config.projector_layers - 1)
    return mlp((num_features, *hidden, config.output_width), bias_last=bias_last)


def deviations(features: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    """Log the deviations of features (N, D) and of a head's outputs (N, P), for a method that compares views.

    The loss sees only the outputs, so a head may collapse long before the backbone does.
    """
    return {
        "feature_deviation": scalar(feature_deviation(features)),
        "output_deviation": scalar(feature_deviation(outputs)),
    }


def feature_deviation(features: Tensor) -> Tensor:
    """Return the deviation of L2-normalised features (B, D) over the batch, averaged over dimensions, times sqrt(D).

    Near 1 for features spread over the sphere, near 0 for a collapse into one point (Chen and He 2021, section 4.1, for
    a projector's outputs).
    """
    unit = nn.functional.normalize(features.detach().float(), dim=1)
    return unit.std(dim=0).mean() * features.shape[1] ** 0.5
