"""Build the network of a spec, with random weights and without its classifier."""

import ast
from typing import Any

import timm
import torch
import torchvision
from timm.models import VisionTransformer
from torch import nn

from ssl_transfer.engine.errors import InputError, reason_of
from ssl_transfer.models.layers.blocks import ordered_blocks

from . import torchvision_models
from .digit_cnn import DigitCnn
from .layers import fx_graph as graphs
from .simple_cnn import SimpleCnn
from .spec import OWN, SIMPLE_CNN, BackboneSpec, is_vit_name

SMALL_GRID = 8
"""Patches a side of a vision transformer with the small stem."""


def create(spec: BackboneSpec) -> nn.Module:
    """Build the network; with `keep_blocks` its first blocks alone, which return their last map.

    Raises:
        InputError: the library refuses name, size or arguments; there are no more blocks than `keep_blocks`.
    """
    model = _create_whole(spec)
    return model if spec.keep_blocks is None else _keep(model, spec, spec.keep_blocks)


def probe(spec: BackboneSpec) -> torch.Tensor:
    """Return one black image (1, C, S, S), to find shapes with."""
    return torch.zeros(1, spec.in_chans, spec.image_size, spec.image_size)


def _create_whole(spec: BackboneSpec) -> nn.Module:
    library = "torchvision" if torchvision_models.is_torchvision(spec.name) else "timm"
    given = _parse_arguments(spec.arguments)
    try:
        if spec.name in OWN:
            if given:
                raise InputError(f"--backbone.arguments {' '.join(spec.arguments)}: {spec.name} takes none.")
            network = SimpleCnn if spec.name == SIMPLE_CNN else DigitCnn
            model: nn.Module = network(spec.in_chans)
        elif library == "torchvision":
            model = torchvision_models.build(
                spec.name, in_chans=spec.in_chans, image_size=spec.image_size, arguments=given
            )
        else:
            model = _create_timm(spec)
    except InputError:
        raise
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        shown = " ".join(spec.arguments) or "(none)"
        raise InputError(
            f"{library} cannot build {spec.name} for {spec.image_size} px with --backbone.arguments {shown}: "
            f"{reason_of(error)}"
        ) from error
    # DigitCnn is made for small images as it is.
    if spec.stem == "small" and not isinstance(model, VisionTransformer | DigitCnn):
        if isinstance(model, torchvision_models.VisionTransformer):
            raise InputError(
                f"{spec.name}: torchvision's transformers have no small stem. Give --backbone.stem standard, or a "
                "transformer of timm (vit_tiny_patch16_224)."
            )
        _shrink_stem(model)
    return model


def library_arguments(spec: BackboneSpec) -> dict[str, Any]:
    """Return the constructor's arguments in timm or torchvision for a spec, without the number of classes."""
    given = _parse_arguments(spec.arguments)
    if torchvision_models.is_torchvision(spec.name):
        return torchvision_models.arguments_of(spec.name, image_size=spec.image_size, arguments=given)
    arguments = {"in_chans": spec.in_chans, **given}
    if is_vit_name(spec.name):
        # Averaged patch tokens after the final norm, as MAE recommends; `fc_norm` would put the norm after the average.
        arguments = {"img_size": spec.image_size, "global_pool": "avg", "fc_norm": False, **arguments}
        if spec.stem == "small":
            arguments.setdefault("patch_size", max(1, spec.image_size // SMALL_GRID))
    if _is_vgg(spec.name):
        # The two layers of 4,096 belong to its classifier, and hold seven eighths of the parameters. They are dropped
        # later; narrow ones are initialised faster.
        arguments = {"mlp_ratio": 1 / 4096, **arguments}
    return arguments


def _create_timm(spec: BackboneSpec) -> nn.Module:
    model = timm.create_model(spec.name, **{"num_classes": 0, **library_arguments(spec)})
    if _is_vgg(spec.name):
        model.pre_logits = nn.Identity()
    return model


def _is_vgg(name: str) -> bool:
    return timm.models.model_entrypoint(name).__module__ == "timm.models.vgg"


def _keep(model: nn.Module, spec: BackboneSpec, count: int) -> nn.Module:
    blocks, _ = ordered_blocks(model, probe(spec))
    if not 1 <= count < len(blocks):
        raise InputError(
            f"Keeping the first {count} blocks: {spec.name} has {len(blocks)}, so 1 to {len(blocks) - 1} can be kept."
        )
    start = blocks[count].modules[0]
    try:
        graph = graphs.trace_in_both_modes(model, start)
        outputs = graphs.crossing(graph, graphs.first_call(graph, start))
    except graphs.NotTraceableError as error:
        raise InputError(f"Keeping the first {count} blocks: {spec.label} cannot be cut there: {error}.") from error
    # A dense block returns the maps of all its layers: the input of the next layer is their concatenation.
    kept: Any = torch.fx.GraphModule(model, graphs.until(graph, outputs))
    kept.prefix_tokens = prefix_tokens(model)
    return kept


def prefix_tokens(model: Any) -> tuple[int, bool]:
    """Return the number of tokens before a transformer's patches, and True where the first is a class token."""
    if isinstance(model, torch.fx.GraphModule):
        held: Any = model
        return held.prefix_tokens
    if isinstance(model, torchvision.models.VisionTransformer):
        return 1, True
    # Only timm's families with such tokens have these attributes.
    return getattr(model, "num_prefix_tokens", 0), getattr(model, "cls_token", None) is not None


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
    """Give the first convolution stride 1 and a kernel of at most 3 x 3, and remove the pooling after it."""
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
