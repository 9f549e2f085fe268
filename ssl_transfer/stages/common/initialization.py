"""Where a run starts: which backbone, from which weights, fit for which images."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import weight_files
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.init_names import TIMM

from .run_config import IMAGE_SIZE

WORDS = ("scratch", "imagenet")
"""Initialisations that are no run."""
AUTO = "auto"
"""A backbone's name that is still to be decided."""


def is_run(init: str) -> bool:
    """Whether an initialisation is the folder of a run."""
    return init not in WORDS and not init.startswith(TIMM)


def run_of(init: str) -> Path:
    """The folder of the run that an initialisation names.

    Raises:
        InputError: there is no model, with all that could have been given.
    """
    try:
        weight_files.export_folder(Path(init), "backbone")
    except InputError as error:
        raise InputError(f"--init {error} Or give {', '.join(WORDS)} or timm:NAME.") from error
    return Path(init)


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Where a backbone comes from."""

    init: Annotated[str, *configuration.words(WORDS, "timm:NAME|RUN")] = "scratch"
    """Where the backbone's weights come from: scratch, imagenet, timm:NAME (any weights of timm, such as
    timm:resnet18.a1_in1k), or the folder of a run."""
    image_size: int | None = None
    """Pixels a side of what the models see. Default: 64, or those of the run that --init names."""
    backbone: backbones.BackboneConfig = field(default_factory=backbones.BackboneConfig)
    """The network for scratch and imagenet; a run's folder and timm:NAME name their own."""
    imagenet_weights: Path | None = None
    """A local file with ImageNet weights in timm's names (of torchvision/NAME in torchvision's), instead of a hub."""
    seed: int = 0
    """Seed of the labelled images, of weights, order and augmentation."""

    @property
    def size(self) -> int:
        """Pixels a side, decided.

        Raises:
            InputError: another size than that of the run that `init` names.
        """
        if not is_run(self.init):
            return IMAGE_SIZE if self.image_size is None else self.image_size
        size = pretrained.image_size_of(run_of(self.init))
        if self.image_size not in (None, size):
            raise InputError(f"--image-size {self.image_size}: --init {self.init} takes {size} pixels. Leave it out.")
        return size


def label_of(init: str) -> str:
    """An initialisation as part of a folder's name."""
    return re.sub(r"[^\w.+-]+", "-", Path(init).name)


def initial_backbone(initial: Initial, dataset: Dataset) -> tuple[backbones.Backbone, dict[str, Any]]:
    """The backbone that `init` names, and its provenance. Random numbers then go on as a function of the seed."""
    if initial.imagenet_weights is not None and (initial.init == "scratch" or is_run(initial.init)):
        raise InputError(f"--imagenet-weights would be ignored with --init {initial.init}.")
    if initial.init == "scratch":
        return pretrained.scratch(_spec(initial, dataset), seed=seed_from(initial.seed, 0)), {"init": "scratch"}
    if initial.init == "imagenet":
        backbone = pretrained.imagenet(_spec(initial, dataset), weights=initial.imagenet_weights)
        provenance: dict[str, Any] = {"init": "imagenet"}
    elif initial.init.startswith(TIMM):
        _, name = pretrained.pretrained_name(initial.init.removeprefix(TIMM))
        own = replace(initial, backbone=timm_backbone(initial.init, initial.backbone))
        backbone = pretrained.imagenet(_spec(own, dataset), weights=initial.imagenet_weights, name=name)
        provenance = {"init": f"{TIMM}{name}"}
    else:
        path = Path(initial.init)
        if initial.init.startswith("imagenet+") and not path.exists():
            raise InputError(
                f"--init {initial.init}: that is an arm of compare. To go on from ImageNet here give --init imagenet."
            )
        if initial.backbone not in (backbones.BackboneConfig(), pretrained.config_of(path)):
            raise InputError(f"--backbone would be ignored: --init {initial.init} names its own. Leave it out.")
        backbone, provenance = pretrained.from_checkpoint(path, image_size=initial.size)
    # How many were drawn depends on where the weights were found.
    torch.manual_seed(seed_from(initial.seed, 0))
    return backbone, provenance


def _spec(initial: Initial, dataset: Dataset) -> backbones.BackboneSpec:
    """What is asked for, for the images at hand."""
    mean, std = dataset.statistics()
    return backbones.make_spec(
        initial.backbone,
        in_chans=dataset.num_channels,
        image_size=initial.size,
        mean=mean,
        std=std,
        value_range=dataset.value_range,
    )


def named(backbone: backbones.BackboneConfig, fallback: backbones.BackboneConfig) -> backbones.BackboneConfig:
    """The backbone itself where it has a name; otherwise the fallback, with the stem and arguments that were set."""
    if backbone.name != AUTO:
        return backbone
    return fallback if backbone == backbones.BackboneConfig(name=AUTO) else replace(backbone, name=fallback.name)


def held(run: Path, given: backbones.BackboneConfig) -> backbones.BackboneConfig:
    """The network of a run's backbone.

    Raises:
        InputError: another one was asked for.
    """
    found = pretrained.config_of(run)
    wanted = replace(named(given, found), stem=found.stem if given.stem == "auto" else given.stem)
    if wanted != found:
        shown = [" ".join([one.name, f"stem {one.stem}", *one.arguments]) for one in (given, found)]
        raise InputError(f"--backbone.name {shown[0]}: --init {run} holds {shown[1]}. Leave --backbone out.")
    return found


def decided(
    init: str, given: backbones.BackboneConfig, suggested: backbones.BackboneConfig
) -> backbones.BackboneConfig:
    """The network that an initialisation brings; where it brings none, the given one or the suggested."""
    if init.startswith(TIMM):
        return timm_backbone(init, given)
    return held(run_of(init), given) if is_run(init) else named(given, suggested)


def timm_backbone(init: str, given: backbones.BackboneConfig) -> backbones.BackboneConfig:
    """The network of timm:NAME, with the stem that its weights fit unless another was set.

    Raises:
        InputError: timm has no such weights; another network was asked for.
    """
    architecture, _ = pretrained.pretrained_name(init.removeprefix(TIMM))
    if given.name not in (architecture, AUTO) and given != backbones.BackboneConfig():
        raise InputError(f"--backbone.name {given.name}: --init {init} is {architecture}. Leave --backbone.name out.")
    return replace(given, name=architecture, stem="standard" if given.stem == "auto" else given.stem)


def fingerprint_of(initial: Initial) -> str:
    """What tells one initialisation from another, wherever its weights lie."""
    if initial.imagenet_weights is not None:
        return weight_files.file_fingerprint(pretrained.weights_file(initial.imagenet_weights))
    return (
        initial.init if not is_run(initial.init) else weight_files.weights_fingerprint(Path(initial.init), "backbone")
    )


def seen_after(initial: Initial, contents: np.ndarray | None) -> np.ndarray | None:
    """The images that weights were trained on, before and with these (as `Dataset.contents`); None if not known."""
    before = np.empty(0, np.uint64) if not is_run(initial.init) else pretrained.seen_images(Path(initial.init))
    return None if before is None or contents is None else np.concatenate([before, contents])
