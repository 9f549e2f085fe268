"""Export a backbone with its head as a model of timm or torchvision, under the library's names.

With the library alone, without this project, the model can be built and its weights loaded strictly. Where the
constructor does not build it (a small stem, a classifier of several layers), a few lines of Python beside the weights
change the constructed model.

Shapes: K classes, D features.
"""

from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from ssl_transfer.engine.errors import InputError, reason_of

from .backbones import Backbone
from .classifier import Classifier
from .factory import library_arguments
from .spec import OWN
from .torchvision_models import CLASSIFIERS, PREFIX, is_torchvision

_REMEDY = "--format onnx and --format torch-export take every model."


@dataclass(frozen=True)
class LibraryModel:
    """Hold a model of timm or torchvision in evaluation mode, with the weights of a run, for normalised images."""

    library: str
    model: nn.Module
    name: str
    """Name of the model in the library."""
    arguments: dict[str, Any]
    """Arguments of its constructor."""
    changes: tuple[str, ...]
    """Lines of Python that change the constructed `model` until the weights fit."""

    @property
    def lines(self) -> tuple[str, ...]:
        """Return lines of Python that build `model`, with random weights."""
        function = "timm.create_model" if self.library == "timm" else "torchvision.models.get_model"
        given = "".join(f", {name}={value!r}" for name, value in self.arguments.items())
        imports = ("import torch",) if self.changes else ()
        return (*imports, f"import {self.library}", f"model = {function}({self.name!r}{given})", *self.changes)


def library_model(backbone: Backbone, classifier: Classifier | None) -> LibraryModel:
    """Build the library's model with the run's weights; without a classifier it returns features.

    Raises:
        InputError: the backbone is not a library's, or the library has no such head.
    """
    spec = backbone.spec
    if spec.name in OWN or spec.keep_blocks is not None:
        what = "is a network of this project" if spec.name in OWN else "keeps only some blocks"
        raise InputError(f"{spec.label} {what}, which neither timm nor torchvision can build. {_REMEDY}")
    layer = None if classifier is None else _linear(classifier, backbone)
    arguments = {**library_arguments(spec), "num_classes": 0 if layer is None else len(layer[0])}
    is_timm = not is_torchvision(spec.name)
    if is_timm:
        model: Any = timm.create_model(spec.name, **arguments)
    else:
        # torchvision's constructors build no model without a classifier.
        arguments = arguments if layer is not None else library_arguments(spec)
        model = torchvision.models.get_model(spec.name.removeprefix(PREFIX), weights=None, **arguments)
    changes = _stem_changes(model, backbone.model)
    name, more = _timm_classifier(model, layer) if is_timm else _torchvision_classifier(model, layer, backbone)
    state = dict(backbone.model.state_dict())
    if layer is not None:
        state |= {f"{name}.weight": layer[0], f"{name}.bias": layer[1]}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{spec.label}: its weights do not fit there ({reason_of(error)}). {_REMEDY}") from error
    library = "timm" if is_timm else "torchvision"
    return LibraryModel(library, model.eval(), spec.name.removeprefix(PREFIX), arguments, (*changes, *more))


def _linear(classifier: Classifier, backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Fold scale and class order of a one-layer head into weight (K, D) and bias (K,)."""
    layers = [layer for layer in classifier.head.layers if not isinstance(layer, nn.Dropout)]
    if classifier.head.takes_maps or len(layers) != 1:
        raise InputError(
            f"the head on {backbone.spec.label} has {len(layers)} layers of its own or pools by itself, which no model "
            f"of timm or torchvision has. {_REMEDY} Of the backbone alone (RUN/backbone) every format can be had."
        )
    last: Any = layers[0]
    weight, bias = last.weight.detach() * classifier.head.scale, last.bias.detach()
    if len(weight) == 1:
        # One score for two classes: softmax of (0, x) is the sigmoid of x.
        weight, bias = (torch.cat([torch.zeros_like(part), part]) for part in (weight, bias))
    return weight[classifier.order], bias[classifier.order]


def _stem_changes(model: Any, trained: nn.Module) -> list[str]:
    """Replace the stem by the trained one, and drop layers that the backbone lacks; return the lines that do so."""
    lines = []
    name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    own: Any = trained.get_submodule(name)
    if (first.kernel_size, first.in_channels) != (own.kernel_size, own.in_channels):
        lines.append(_replace(model, name, _like(own)))
    elif first.stride != own.stride:
        first.stride = own.stride
        lines.append(f"model.get_submodule({name!r}).stride = {own.stride}")
    for child, there in trained.named_children():
        held = getattr(model, child)
        left_out = isinstance(there, nn.Identity) and not isinstance(held, (nn.Identity, nn.Dropout))
        if left_out and child not in CLASSIFIERS:
            lines.append(_replace(model, child, nn.Identity()))
    if isinstance(model, (torchvision.models.VGG, torchvision.models.AlexNet)):
        lines.append(_replace(model, "avgpool", nn.AdaptiveAvgPool2d(1)))
    return lines


def _like(own: nn.Conv2d) -> nn.Conv2d:
    """Build a plain convolution of the same shape, whose repr is its constructor."""
    return nn.Conv2d(
        own.in_channels,
        own.out_channels,
        own.kernel_size,  # type: ignore[arg-type]
        stride=own.stride,  # type: ignore[arg-type]
        padding=own.padding,  # type: ignore[arg-type]
        bias=own.bias is not None,
    )


def _timm_classifier(model: Any, layer: tuple[Tensor, Tensor] | None) -> tuple[str, list[str]]:
    """Return the name of the classifying linear layer, and the lines that give it the head's shape."""
    if layer is None:
        return "", []
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Linear):
        kind = type(classifier).__name__
        raise InputError(f"timm classifies in {type(model).__name__} by a {kind}, not by a linear layer. {_REMEDY}")
    name = next(name for name, module in model.named_modules() if module is classifier)
    return name, _fitted(model, name, layer)


def _torchvision_classifier(
    model: nn.Module, layer: tuple[Tensor, Tensor] | None, backbone: Backbone
) -> tuple[str, list[str]]:
    """Do the same in torchvision: the first linear layer becomes the head's, and layers after it are dropped."""
    held = next((name for name in CLASSIFIERS if name in dict(model.named_children())), "")
    layers = {f"{held}.{name}".rstrip("."): module for name, module in model.get_submodule(held).named_modules()}
    linear = [name for name, module in layers.items() if isinstance(module, nn.Linear)]
    if not held or not linear:
        raise InputError(f"{backbone.spec.label}: torchvision classifies there by no linear layer. {_REMEDY}")
    lines = [_replace(model, linear[0], nn.Identity())] if layer is None else _fitted(model, linear[0], layer)
    behind = list(layers)[list(layers).index(linear[0]) + 1 :]
    return linear[0], [*lines, *(_replace(model, name, nn.Identity()) for name in behind)]


def _fitted(model: nn.Module, name: str, layer: tuple[Tensor, Tensor]) -> list[str]:
    """Give a linear layer the head's shape, and return the lines that do so."""
    num_classes, width = layer[0].shape
    there: Any = model.get_submodule(name)
    if (there.in_features, there.out_features, there.bias is not None) == (width, num_classes, True):
        return []
    return [_replace(model, name, nn.Linear(width, num_classes))]


def _replace(model: nn.Module, name: str, module: nn.Module) -> str:
    """Replace a submodule by a plain module of torch, and return the line that does so."""
    model.set_submodule(name, module)
    return f"model.set_submodule({name!r}, torch.nn.{module!r})"
