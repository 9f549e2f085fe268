"""Configure a backbone, and resolve the configuration for the images."""

from dataclasses import dataclass
from typing import Literal

import timm

from ssl_transfer.engine.errors import InputError, did_you_mean

from . import torchvision_models

SMALL_IMAGE = 64
"""With `stem auto`, images of fewer pixels a side get the small stem."""
SIMPLE_CNN = "simple_cnn"
DIGIT_CNN = "digit_cnn"
OWN = (SIMPLE_CNN, DIGIT_CNN)
"""Networks of this project."""
Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Choose the network. `name` and `arguments` are timm's, or torchvision's."""

    name: str = "resnet18"
    """A model of timm (resnet18, mobilenetv3_small_100, vit_tiny_patch16_224), torchvision/NAME for one of torchvision
    under its parameter names (torchvision/mobilenet_v2), simple_cnn, a plain baseline of six convolutions, or
    digit_cnn, the two convolutions of DANN's authors for 28 px."""
    stem: Literal["auto", "standard", "small"] = "auto"
    """standard: as timm builds it. small: for images of a few pixels; a convolutional network's first layer gets
    stride 1 (a 7 x 7 kernel becomes 3 x 3) and no pooling follows it; a vision transformer gets patches of an eighth
    of the image. auto: small below 64 pixels a side."""
    arguments: tuple[str, ...] = ()
    """Further arguments of the model's constructor as name=value, for example depth=4 or pad_type=same."""


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Hold all that builds a backbone and prepares its images: the content of `backbone.json`."""

    name: str
    stem: Literal["standard", "small"]
    arguments: tuple[str, ...]
    in_chans: int
    image_size: int
    """Pixels a side of its images."""
    mean: tuple[float, ...]
    """Mean of each channel, for values in 0..1; subtracted from the input."""
    std: tuple[float, ...]
    """Standard deviation of each channel; divides the difference."""
    value_range: tuple[float, float] = (0.0, 255.0)
    """Stored values of its images that are mapped to 0 and 1; 0 and 255 for 8 bits."""
    interpolation: Interpolation = "bilinear"
    """Resampling of images in the training of its weights, and in evaluation here. Augmented views are always resampled
    bilinearly."""
    keep_blocks: int | None = None
    """Number of first blocks to keep, their last map averaged; None keeps the whole network."""

    @property
    def label(self) -> str:
        """Return the short name in tables."""
        kept = () if self.keep_blocks is None else (f"first:{self.keep_blocks}",)
        return "/".join([self.name, *self.arguments, *kept])

    @property
    def config(self) -> BackboneConfig:
        """Return the configuration that builds this network."""
        return BackboneConfig(name=self.name, stem=self.stem, arguments=self.arguments)


def make_spec(
    config: BackboneConfig,
    *,
    in_chans: int,
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    value_range: tuple[float, float] = (0.0, 255.0),
) -> BackboneSpec:
    """Resolve a configuration for the images.

    Raises:
        InputError: no model has this name.
    """
    check_name(config.name)
    return BackboneSpec(
        name=config.name,
        stem=stem_of(config, image_size),
        arguments=config.arguments,
        in_chans=in_chans,
        image_size=image_size,
        mean=mean,
        std=std,
        value_range=value_range,
    )


def stem_of(config: BackboneConfig, image_size: int) -> Literal["standard", "small"]:
    """Return the stem, with `auto` resolved by the image size."""
    if config.stem == "auto":
        return "small" if image_size < SMALL_IMAGE else "standard"
    return config.stem


def check_name(name: str) -> None:
    """Raise InputError, with similar names, where no model has this name."""
    if torchvision_models.is_torchvision(name):
        torchvision_models.check_name(name)
    elif name not in OWN and not timm.is_model(name):
        raise InputError(
            f"--backbone.name {name}: timm {timm.__version__} has no such model."
            f"{did_you_mean(name, [*timm.list_models(), *OWN])} torchvision's are written torchvision/NAME."
        )


def is_timm(name: str) -> bool:
    """Return True where an existing name is timm's."""
    return name not in OWN and not torchvision_models.is_torchvision(name)


def is_vit_name(name: str) -> bool:
    """Return True for a plain vision transformer of timm, which can mask patches."""
    check_name(name)
    return is_timm(name) and timm.models.model_entrypoint(name).__module__ == "timm.models.vision_transformer"
