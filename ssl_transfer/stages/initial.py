"""Where a run starts: which backbone, from which weights, fit for which images."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.dataset import Dataset
from ..engine import checkpoint
from ..engine.errors import InputError
from ..engine.randomness import seed_from
from ..models import backbones, initialize
from .run import IMAGE_SIZE

WORDS = ("scratch", "imagenet")
"""Initialisations that are no run."""
AUTO = "auto"
"""A backbone's name that is still to be decided."""


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Where a backbone comes from."""

    init: str = "scratch"
    """Where the backbone's weights come from: scratch, imagenet, or the folder of a pretraining run."""
    image_size: int | None = None
    """Pixels a side of what the models see. Default: 64, or those of the run that --init names."""
    backbone: backbones.BackboneConfig = field(default_factory=backbones.BackboneConfig)
    """The network for scratch and imagenet; a run's folder names its own."""
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
        if self.init in WORDS:
            return IMAGE_SIZE if self.image_size is None else self.image_size
        size = initialize.image_size_of(Path(self.init))
        if self.image_size not in (None, size):
            raise InputError(f"--image-size {self.image_size}: --init {self.init} takes {size} pixels. Leave it out.")
        return size


def initial_backbone(initial: Initial, dataset: Dataset) -> tuple[backbones.Backbone, dict[str, Any]]:
    """The backbone that `init` names, and its provenance. Random numbers then go on as a function of the seed."""
    if initial.imagenet_weights is not None and initial.init != "imagenet":
        raise InputError(f"--imagenet-weights would be ignored with --init {initial.init}.")
    if initial.init == "scratch":
        return initialize.scratch(_spec(initial, dataset), seed=seed_from(initial.seed, 0)), {"init": "scratch"}
    if initial.init == "imagenet":
        backbone = initialize.imagenet(_spec(initial, dataset), weights=initial.imagenet_weights)
        provenance: dict[str, Any] = {"init": "imagenet"}
    else:
        path = Path(initial.init)
        if initial.init.startswith("imagenet+") and not path.exists():
            raise InputError(
                f"--init {initial.init}: that is an arm of compare. To go on from ImageNet here give --init imagenet."
            )
        if initial.backbone not in (backbones.BackboneConfig(), initialize.config_of(path)):
            raise InputError(f"--backbone would be ignored: --init {initial.init} names its own. Leave it out.")
        backbone, provenance = initialize.from_checkpoint(path, image_size=initial.size)
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
    found = initialize.config_of(run)
    wanted = replace(named(given, found), stem=found.stem if given.stem == "auto" else given.stem)
    if wanted != found:
        shown = [" ".join([one.name, f"stem {one.stem}", *one.arguments]) for one in (given, found)]
        raise InputError(f"--backbone.name {shown[0]}: --init {run} holds {shown[1]}. Leave --backbone out.")
    return found


def fingerprint_of(initial: Initial) -> str:
    """What tells one initialisation from another, wherever its weights lie."""
    if initial.imagenet_weights is not None:
        return checkpoint.file_fingerprint(initial.imagenet_weights.expanduser())
    return initial.init if initial.init in WORDS else checkpoint.weights_fingerprint(Path(initial.init), "backbone")


def seen_after(initial: Initial, contents: np.ndarray | None) -> np.ndarray | None:
    """The images that weights were trained on, before and with these (as `Dataset.contents`); None if not known."""
    before = np.empty(0, np.uint64) if initial.init in WORDS else initialize.seen_images(Path(initial.init))
    return None if before is None or contents is None else np.concatenate([before, contents])
