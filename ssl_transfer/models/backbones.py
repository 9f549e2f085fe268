"""Backbones from timm: built by name, with a stem for small images, their layers in order."""

import ast
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from timm.models import VisionTransformer, group_parameters
from torch import Tensor, nn

from ..engine.errors import InputError, did_you_mean

SMALL_IMAGE = 64
"""With `stem auto`, images of fewer pixels a side get the small stem."""
SMALL_GRID = 8
"""Patches a side that a vision transformer with the small stem has."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which network. `name` and `arguments` are timm's."""

    name: str = "resnet18"
    """A model of timm, for example resnet18, mobilenetv3_small_100, vit_tiny_patch16_224."""
    stem: Literal["auto", "standard", "small"] = "auto"
    """standard: as timm builds it. small: for images of a few pixels; a convolutional network's first layer gets
    stride 1 (a 7 x 7 kernel becomes 3 x 3) and no pooling follows it; a vision transformer gets patches of an eighth
    of the image. auto: small below 64 pixels a side."""
    arguments: tuple[str, ...] = ()
    """Further arguments of timm's constructor as name=value, for example depth=4 or pad_type=same."""


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """All that is needed to build a backbone again and to feed it: what `backbone.json` holds."""

    name: str
    stem: Literal["standard", "small"]
    arguments: tuple[str, ...]
    in_chans: int
    image_size: int
    """Pixels a side of the images it was made for."""
    mean: tuple[float, ...]
    """Of each channel, for values in 0..1; subtracted from its input."""
    std: tuple[float, ...]
    """Of each channel; divides what the mean left."""
    value_range: tuple[float, float] = (0.0, 255.0)
    """The stored values of its images that became 0 and 1; 0 and 255 where they had 8 bits."""

    @property
    def label(self) -> str:
        """The short name that tables show."""
        return "/".join([self.name, *self.arguments])


class Backbone(nn.Module):
    """A timm model without its classifier, and the normalisation that its weights go with.

    Args:
        spec: what to build.
    """

    mean: Tensor
    std: Tensor
    model: Any

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.spec = spec
        # Channels last: half as fast again for convolutions on a CPU, and what tensor cores want on a GPU.
        self.model = _create(spec).to(memory_format=torch.channels_last)
        # Not persistent: they are the spec's, and the exported weights stay timm's own.
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)
        self.num_features = _num_features(self.model, spec)

    def normalize(self, images: Tensor) -> Tensor:
        """(B, C, S, S) in 0..1 -> the same shape, as the weights expect it."""
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S) in 0..1 -> pooled features (B, num_features)."""
        return self.model(self.normalize(images))

    @property
    def is_vit(self) -> bool:
        """Whether this is a plain vision transformer."""
        return isinstance(self.model, VisionTransformer)

    def undecayed(self) -> set[str]:
        """Names (within this module) of tokens and position embeddings, which weight decay leaves alone."""
        no_decay = getattr(self.model, "no_weight_decay", set)
        return {f"model.{name}" for name in no_decay()}

    def layers(self) -> dict[str, int]:
        """For each parameter's name (within this module) the depth of its layer: 0 is the stem."""
        groups = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        present = sorted({groups[name] for name, _ in self.model.named_parameters()})
        return {f"model.{name}": present.index(groups[name]) for name, _ in self.model.named_parameters()}


def make_spec(
    config: BackboneConfig,
    *,
    in_chans: int,
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    value_range: tuple[float, float] = (0.0, 255.0),
) -> BackboneSpec:
    """Resolve a configuration for the images at hand.

    Raises:
        InputError: timm has no model of this name.
    """
    check_name(config.name)
    stem = config.stem
    if stem == "auto":
        stem = "small" if image_size < SMALL_IMAGE else "standard"
    return BackboneSpec(
        name=config.name,
        stem=stem,
        arguments=config.arguments,
        in_chans=in_chans,
        image_size=image_size,
        mean=mean,
        std=std,
        value_range=value_range,
    )


def check_name(name: str) -> None:
    """Raise InputError, with the near names, when timm has no model of this name."""
    if not timm.is_model(name):
        raise InputError(
            f"--backbone.name {name}: timm {timm.__version__} has no such model."
            f"{did_you_mean(name, timm.list_models())}"
        )


def is_vit_name(name: str) -> bool:
    """Whether a timm model of this name is a plain vision transformer."""
    check_name(name)
    return timm.models.model_entrypoint(name).__module__ == "timm.models.vision_transformer"


def freeze(module: nn.Module) -> None:
    """Take the gradients away. Whoever holds a frozen module also keeps it in evaluation mode: buffers drift else."""
    module.requires_grad_(False)
    module.eval()


def _create(spec: BackboneSpec) -> nn.Module:
    arguments = {"in_chans": spec.in_chans, "num_classes": 0, **_parse_arguments(spec.arguments)}
    if is_vit_name(spec.name):
        # Averaged patch tokens behind the final norm, as MAE recommends; `fc_norm` would put it after the average.
        arguments = {"img_size": spec.image_size, "global_pool": "avg", "fc_norm": False, **arguments}
        if spec.stem == "small":
            arguments.setdefault("patch_size", max(1, spec.image_size // SMALL_GRID))
    try:
        model = timm.create_model(spec.name, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        given = " ".join(spec.arguments) or "(none)"
        raise InputError(
            f"timm cannot build {spec.name} for {spec.image_size} px with --backbone.arguments {given}: {error}"
        ) from error
    if spec.stem == "small" and not isinstance(model, VisionTransformer):
        _shrink_stem(model)
    return model


def _parse_arguments(arguments: tuple[str, ...]) -> dict[str, Any]:
    parsed = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--backbone.arguments {argument}: write name=value, for example depth=4.")
        try:
            parsed[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[name] = value
    return parsed


def _shrink_stem(model: nn.Module) -> None:
    """Give the first convolution stride 1 and at most 3 x 3, and take the pooling behind it out."""
    name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if max(first.kernel_size) > 3:
        shrunk = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=first.bias is not None)
        nn.init.kaiming_normal_(shrunk.weight, mode="fan_out", nonlinearity="relu")
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, shrunk)
    else:
        first.stride = (1, 1)
    if isinstance(getattr(model, "maxpool", None), nn.Module):
        model.maxpool = nn.Identity()


def _num_features(model: nn.Module, spec: BackboneSpec) -> int:
    """The width of the pooled features: timm's `num_features` misses the layers that some families put after pooling.

    Looked up by a forward in evaluation mode, which moves no statistics, without drawing random numbers.
    """
    training = model.training
    model.eval()
    with torch.no_grad():
        try:
            features = model(torch.zeros(1, spec.in_chans, spec.image_size, spec.image_size))
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"{spec.label} does not take images of {spec.image_size} px ({error}). Give a larger --image-size, "
                "--backbone.stem small, or another backbone."
            ) from error
    model.train(training)
    return features.shape[1]
