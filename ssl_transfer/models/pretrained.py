"""Initialise backbones: random, public weights of timm or torchvision, or an export; and export them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import timm
import torch
from timm.models import VGG, VisionTransformer, load_state_dict
from torch import Tensor

from ssl_transfer.engine.errors import InputError, did_you_mean, reason_of
from ssl_transfer.engine.io.atomic import save_array
from ssl_transfer.engine.io.checksum import file_checksum
from ssl_transfer.engine.io.home_folder import expanded
from ssl_transfer.engine.io.hub import check_hub, no_endless_silence
from ssl_transfer.engine.io.npy_files import load_array
from ssl_transfer.engine.io.weight_files import EXPORT_AGAIN, WeightFile, save_weights

from . import torchvision_models
from .backbones import Backbone, BackboneSpec, first_blocks
from .spec import OWN
from .torchvision_models import Preprocessing

_SEEN = "seen.npy"
_SUPPLY = "supply them with --imagenet-weights PATH (a .safetensors or .pth file with the library's own names)"
_Weights = tuple[Preprocessing, Callable[[], dict[str, Tensor]], str]


def scratch(spec: BackboneSpec, *, seed: int) -> Backbone:
    """Build a backbone with random weights, a function of the seed."""
    torch.manual_seed(seed)
    return Backbone(spec)


def imagenet(spec: BackboneSpec, *, weights: Path | None, name: str = "") -> Backbone:
    """Build a backbone with ImageNet weights, or others of timm's, from a local file or a hub (timm, torchvision).

    The normalisation and the interpolation become those of the weights. A first layer for three channels is fitted to
    other numbers by timm's rule.

    Args:
        spec: of the backbone.
        weights: a local file with the library's own names; None downloads from the hub.
        name: of timm's weights, as in `pretrained_name`; by default timm's preferred ones for this backbone.

    Raises:
        InputError: the weights are not available, or do not fit the architecture.
    """
    if spec.name in OWN:
        raise InputError(f"{spec.name} has no ImageNet weights. Use --init scratch, or another backbone.")
    whole = replace(spec, keep_blocks=None)
    name = name or spec.name
    read = _torchvision_weights if torchvision_models.is_torchvision(name) else _timm_weights
    preprocessing, load, source = read(name, weights)
    backbone = Backbone(
        replace(
            whole,
            mean=_fit_channels(preprocessing.mean, spec.in_chans),
            std=_fit_channels(preprocessing.std, spec.in_chans),
            interpolation=preprocessing.interpolation,
        )
    )
    try:
        with no_endless_silence():
            state = load()
    except InputError:
        raise
    except Exception as error:  # Hub clients raise many kinds without a network; all mean that there are no weights.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what = "ImageNet weights" if name == spec.name else "Weights"
        raise InputError(f"{what} of {name} cannot be had from {source} ({reason}): {_SUPPLY}.") from error
    _load_imagenet(backbone, state, source, name)
    return backbone if spec.keep_blocks is None else first_blocks(backbone, spec.keep_blocks)


def pretrained_name(name: str) -> tuple[str, str]:
    """Return the architecture and the full name of timm's weights: resnet18 and resnet18.a1_in1k.

    Args:
        name: an architecture, for timm's preferred weights of it, or with a tag behind a dot.

    Raises:
        InputError: timm has no such weights.
    """
    architecture, _, tag = name.partition(".")
    known = timm.list_pretrained()
    if not any(one == name or (not tag and one.partition(".")[0] == name) for one in known):
        near = did_you_mean(name, known)
        raise InputError(
            f"timm:{name}: timm {timm.__version__} has no pretrained weights of this name.{near} "
            "timm.list_pretrained() lists them."
        )
    return architecture, f"{architecture}.{tag or timm.get_pretrained_cfg(architecture).tag}"


def _timm_weights(name: str, weights: Path | None) -> _Weights:
    """Return timm's preprocessing, a function that reads the weights, and their origin."""
    model_config = timm.get_pretrained_cfg(name)
    if weights is None and (model_config is None or not model_config.has_weights):
        raise InputError(f"timm has no ImageNet weights for {name}: {_SUPPLY}, or choose another backbone.")
    preprocessing = Preprocessing(
        mean=tuple(model_config.mean) if model_config else (0.485, 0.456, 0.406),
        std=tuple(model_config.std) if model_config else (0.229, 0.224, 0.225),
        interpolation="bicubic" if model_config and model_config.interpolation == "bicubic" else "bilinear",
    )

    def download() -> dict[str, Tensor]:
        _check_hub(model_config.hf_hub_id)
        return timm.create_model(name, pretrained=True).state_dict()

    if weights is not None:
        return preprocessing, lambda: _read(weights), str(weights)
    return preprocessing, download, f"timm's hub ({name})"


def _torchvision_weights(name: str, weights: Path | None) -> _Weights:
    """Return the same from torchvision."""
    preprocessing = torchvision_models.preprocessing(name)
    if weights is not None:
        return preprocessing, lambda: _read(weights), str(weights)
    return preprocessing, lambda: torchvision_models.download(name), f"torchvision's hub ({name})"


def weights_file(weights: Path) -> Path:
    """Return the user's own file of ImageNet weights.

    Raises:
        InputError: there is none.
    """
    file = expanded(weights, flag="--imagenet-weights")
    if not file.is_file():
        raise InputError(f"--imagenet-weights {weights}: there is no such file.")
    return file


def _read(weights: Path) -> dict[str, Tensor]:
    return load_state_dict(str(weights_file(weights)), use_ema=False, weights_only=True)


def from_export(file: WeightFile, *, image_size: int | None = None) -> Backbone:
    """Load an exported backbone.

    Args:
        file: weights and description.
        image_size: pixels a side of the images to come; by default those of the export. At another size a transformer's
            position embedding is resampled.

    Raises:
        InputError: the weights do not fit the architecture in their description.
    """
    weights, stored = file.tensors(), spec_of(file)
    backbone = Backbone(replace(stored, image_size=image_size or stored.image_size))
    if backbone.spec != stored:
        weights = _fit_size(weights, backbone)
    try:
        backbone.model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{file.folder}: the weights do not fit {backbone.spec.label}: {reason_of(error)}") from error
    return backbone


def spec_of(file: WeightFile) -> BackboneSpec:
    """Read the spec of an exported backbone from its description."""
    stored = file.description["backbone"]
    sequences = {name: tuple(value) for name, value in stored.items() if isinstance(value, list)}
    return BackboneSpec(**{**stored, **sequences})


def export(
    backbone: Backbone,
    folder: Path,
    provenance: Mapping[str, Any],
    *,
    images: Mapping[str, Any] | None = None,
    seen: np.ndarray | None = None,
) -> None:
    """Export a backbone: `backbone.safetensors` under the library's parameter names, `backbone.json`, `seen.npy`.

    Args:
        backbone: to export.
        folder: for the files; made where absent.
        provenance: initialisation, settings and fingerprints of the training.
        images: how the images were stored, where that is known (`data.store.storage_layout.kept`).
        seen: (N,) uint64, contents of the training images as in `Dataset.contents`; None writes no record.
    """
    description: dict[str, Any] = {"backbone": asdict(backbone.spec), "provenance": dict(provenance)}
    if seen is not None:
        save_array(folder / _SEEN, np.unique(seen))
        description[_SEEN] = file_checksum(folder / _SEEN)
    description |= {} if images is None else {"images": dict(images)}
    save_weights(folder, "backbone", backbone.model.state_dict(), description)


def seen_images(file: WeightFile) -> np.ndarray | None:
    """Read the images that trained an exported backbone and its initialisation; None where no record was kept.

    Raises:
        DamagedError: the record is missing, or differs from its checksum.
    """
    record, expected = file.folder / _SEEN, file.description.get(_SEEN)
    if expected is not None:
        file.verify_array(_SEEN, expected)
    return load_array(record, remedy=EXPORT_AGAIN) if record.is_file() else None


def _fit_channels(values: tuple[float, ...], in_chans: int) -> tuple[float, ...]:
    """Fit ImageNet's three means or deviations to any number of channels: their average for each."""
    return tuple(values) if in_chans == 3 else (sum(values) / len(values),) * in_chans


def _check_hub(repository: str) -> None:
    """Raise OSError at once where the hub cannot be reached and its files are not cached."""
    names = ("model.safetensors", "pytorch_model.bin")
    if not any(isinstance(huggingface_hub.try_to_load_from_cache(repository, name), str) for name in names):
        check_hub()


def _fit_timm(state: dict[str, Tensor], backbone: Backbone, name: str) -> dict[str, Tensor]:
    """Drop the classifier from a state, and fit its first layer and position embedding."""
    model, spec = backbone.model, backbone.spec
    model_config = timm.get_pretrained_cfg(name)
    classifiers = model_config.classifier if model_config else "head"
    names = [classifiers] if isinstance(classifiers, str) else list(classifiers)
    if isinstance(model, VGG):
        names.append("pre_logits")
    state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{name}." for name in names))}
    first_conv = model_config.first_conv if model_config else None
    for name in (first_conv,) if isinstance(first_conv, str) else ():
        if spec.in_chans != 3 and f"{name}.weight" in state:
            state[f"{name}.weight"] = timm.models.adapt_input_conv(spec.in_chans, state[f"{name}.weight"])
    return _fit_size(state, backbone)


def _fit_size(state: dict[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """Resample a transformer's position embedding and patches in a state to the backbone's image size."""
    model = backbone.model
    if torchvision_models.is_torchvision(backbone.spec.name):
        return torchvision_models.fit_size(state, model, backbone.spec.image_size)
    if isinstance(model, VisionTransformer):
        return timm.models.vision_transformer.checkpoint_filter_fn(state, model)
    return state


def _load_imagenet(backbone: Backbone, state: dict[str, Tensor], source: str, name: str) -> None:
    """Load a classifier's state strictly, except for its classifier, which is dropped by the library's name for it."""
    model, spec = backbone.model, backbone.spec
    if torchvision_models.is_torchvision(spec.name):
        state = torchvision_models.fit_state(state, model, spec.image_size)
    else:
        state = _fit_timm(state, backbone, name)
    expected = model.state_dict()
    wrong = [
        *(f"{key} is missing" for key in expected if key not in state),
        *(f"{key} is unknown" for key in state if key not in expected),
        *(
            f"{key} has shape {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in expected
            if key in state and state[key].shape != expected[key].shape
        ),
    ]
    if wrong:
        shown = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        hint = (
            " The small stem may have another first layer: try --backbone.stem standard."
            if spec.stem == "small"
            else ""
        )
        raise InputError(f"The weights from {source} do not fit {spec.label}: {shown}.{hint}")
    model.load_state_dict(state)
