"""Build torchvision's models as backbones: without classifier, under torchvision's parameter names."""

import operator
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
import torchvision
from torch import Tensor, fx, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from ssl_transfer.engine.errors import InputError, did_you_mean

from .layers import fx_graph as graphs

PREFIX = "torchvision/"
CLASSIFIERS = ("classifier", "fc", "heads", "head")
"""Names of classifiers in torchvision's models."""
_OURS = ("weights", "num_classes", "aux_logits", "image_size", "transform_input")
"""Arguments that this module sets."""
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
_AUXILIARY_MODELS = ("inception_v3", "googlenet")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Describe the preprocessing of images in the training of weights."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic"]


def is_torchvision(name: str) -> bool:
    """Return True for the name of a torchvision model."""
    return name.startswith(PREFIX)


def check_name(name: str) -> None:
    """Raise InputError, with similar names, where torchvision has no classification model of this name."""
    allowed = torchvision.models.list_models(module=torchvision.models)
    wanted = name.removeprefix(PREFIX)
    if wanted not in allowed:
        near = did_you_mean(name, [PREFIX + other for other in allowed])
        raise InputError(f"--backbone.name {name}: torchvision {torchvision.__version__} has no such model.{near}")


def build(name: str, *, in_chans: int, image_size: int, arguments: dict[str, Any]) -> nn.Module:
    """Build a model with random weights that returns pooled features (B, D).

    The classifier is dropped from its first linear layer on; layers before it (ConvNeXt's norm) stay. The auxiliary
    classifiers of Inception and GoogLeNet are not built: they compute nothing in evaluation. VGG and AlexNet average
    their whole map.

    Raises:
        InputError: an argument that this module sets, or that the model does not take.
    """
    wanted = name.removeprefix(PREFIX)
    arguments = arguments_of(name, image_size=image_size, arguments=arguments)
    model = torchvision.models.get_model(wanted, weights=None, **arguments)
    for held in CLASSIFIERS:
        if held in dict(model.named_children()):
            setattr(model, held, _without_linear(model.get_submodule(held)))
    if wanted in _AUXILIARY_MODELS:
        # This dropout belongs to the classifier, as in other families, though it stands before it.
        model.dropout = nn.Identity()
    if isinstance(model, (torchvision.models.VGG, torchvision.models.AlexNet)):
        model.avgpool = nn.AdaptiveAvgPool2d(1)
    if in_chans != 3:
        _set_channels(model, in_chans)
    return model


def arguments_of(name: str, *, image_size: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments, the user's and ours, without the number of classes.

    Raises:
        InputError: an argument that this module sets.
    """
    for argument in arguments:
        if argument in _OURS:
            raise InputError(f"--backbone.arguments {argument}=...: it is decided here for {name}. Leave it out.")
    wanted = name.removeprefix(PREFIX)
    if wanted in _AUXILIARY_MODELS:
        arguments = {"init_weights": True, **arguments, "aux_logits": False}
    if wanted.startswith("vit_"):
        arguments = {**arguments, "image_size": image_size}
    if wanted.startswith("maxvit_"):
        arguments = {"input_size": (image_size, image_size), **arguments}
    return arguments


def map_graph(model: nn.Module) -> fx.Graph:
    """Return the part of a model before its last pooling, or before a transformer's class token is picked.

    Raises:
        InputError: the model pools nothing.
    """
    try:
        graph = graphs.trace(model, "any")
    except graphs.NotTraceableError as error:
        raise InputError(f"The maps of this torchvision model cannot be had: {error}.") from error
    for node in reversed(list(graph.nodes)):
        if _is_pooling(model, node):
            return graphs.until(graph, [node.args[0]])
    raise InputError("This torchvision model pools nothing, so it has no maps for a head to pool.")


def preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing of torchvision's best ImageNet weights, from its metadata.

    With weights, Inception and GoogLeNet rescale ImageNet's normalisation inside the model, to mean and deviation 0.5.
    Here these values are returned, and the model does not rescale.
    """
    wanted = name.removeprefix(PREFIX)
    found = torchvision.models.get_model_weights(wanted).DEFAULT.transforms()
    half = (0.5, 0.5, 0.5)
    return Preprocessing(
        mean=half if wanted in _AUXILIARY_MODELS else tuple(found.mean),
        std=half if wanted in _AUXILIARY_MODELS else tuple(found.std),
        interpolation="bicubic" if found.interpolation.value == "bicubic" else "bilinear",
    )


def download(name: str) -> dict[str, Tensor]:
    """Load torchvision's best ImageNet weights, from its hub or its cache on this disk."""
    weights = torchvision.models.get_model_weights(name.removeprefix(PREFIX)).DEFAULT
    return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))


def fit_state(state: dict[str, Tensor], model: nn.Module, image_size: int) -> dict[str, Tensor]:
    """Fit a state of a whole model to a model of `build`: drop its classifiers.

    A transformer's position embedding is resampled to the size of the images. Keys of torchvision's first DenseNets
    are renamed to today's.
    """
    expected = model.state_dict()
    classifiers = tuple(f"{name}." for name in CLASSIFIERS)
    if isinstance(model, torchvision.models.DenseNet):
        state = {re.sub(r"\.(norm|relu|conv)\.([12])\.", r".\1\2.", key): value for key, value in state.items()}
    fitted = {
        key: value
        for key, value in state.items()
        if not key.startswith(_AUXILIARY) and (key in expected or not key.startswith(classifiers))
    }
    fitted = fit_size(fitted, model, image_size)
    first = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    key, channels = f"{first}.weight", expected[f"{first}.weight"].shape[1]
    if channels != 3 and key in fitted:
        # The sum over the colours for a grey image, and their repeated average for any other number.
        summed = fitted[key].sum(dim=1, keepdim=True)
        fitted[key] = summed.expand(-1, channels, -1, -1).contiguous() / channels
    return fitted


def fit_size(state: dict[str, Tensor], model: nn.Module, image_size: int) -> dict[str, Tensor]:
    """Resample a transformer's position embedding in a state to the size of the images."""
    if isinstance(model, VisionTransformer) and "encoder.pos_embedding" in state:
        return dict(interpolate_embeddings(image_size, model.patch_size, state))
    return state


def _without_linear(classifier: nn.Module) -> nn.Module:
    if not isinstance(classifier, nn.Sequential):
        return nn.Identity()
    kept = nn.Sequential()
    layers = list(classifier.named_children())
    for position, (name, layer) in enumerate(layers):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            # SqueezeNet classifies by a convolution and pools after it.
            if any(isinstance(later, nn.AdaptiveAvgPool2d) for _, later in layers[position:]):
                kept.add_module("pool", nn.AdaptiveAvgPool2d(1))
            break
        if not isinstance(layer, nn.Dropout):
            kept.add_module(name, layer)
    return kept


def _set_channels(model: nn.Module, in_chans: int) -> None:
    name, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        in_chans,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    holder, _, last = name.rpartition(".")
    setattr(model.get_submodule(holder), last, new)


def _is_pooling(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        first = next(iter(module.children()), None) if isinstance(module, nn.Sequential) else module
        return isinstance(first, nn.AdaptiveAvgPool2d)
    if node.op == "call_method":
        return node.target == "mean"
    if isinstance(model, VisionTransformer):
        return node.target is operator.getitem
    return node.target is F.adaptive_avg_pool2d
