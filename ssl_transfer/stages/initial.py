"""The initialisation of a transfer run: which backbone, from which weights, fit for which images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..engine import checkpoint
from ..engine.errors import InputError
from ..engine.randomness import seed_from
from ..models import backbones, initialize
from .run import IMAGE_SIZE

WORDS = ("scratch", "imagenet")
"""Initialisations that are no run."""


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
            return self.image_size or IMAGE_SIZE
        size = initialize.image_size_of(Path(self.init))
        if self.image_size not in (None, size):
            raise InputError(f"--image-size {self.image_size}: --init {self.init} takes {size} pixels. Leave it out.")
        return size


def initial_backbone(initial: Initial, dataset: Dataset) -> tuple[backbones.Backbone, dict[str, Any]]:
    """The backbone that `init` names, and its provenance."""
    if initial.init not in WORDS:
        if initial.backbone != backbones.BackboneConfig():
            raise InputError(f"--backbone would be ignored: --init {initial.init} names its own. Leave it out.")
        return initialize.from_checkpoint(Path(initial.init))
    if initial.imagenet_weights is not None and initial.init != "imagenet":
        raise InputError(f"--imagenet-weights would be ignored with --init {initial.init}.")
    mean, std = dataset.statistics()
    spec = backbones.make_spec(
        initial.backbone,
        in_chans=dataset.num_channels,
        image_size=initial.size,
        mean=mean,
        std=std,
        value_range=dataset.value_range,
    )
    if initial.init == "imagenet":
        return initialize.imagenet(spec, weights=initial.imagenet_weights), {"init": "imagenet"}
    return initialize.scratch(spec, seed=seed_from(initial.seed, 0)), {"init": "scratch"}


def fingerprint_of(initial: Initial) -> str:
    """What tells one initialisation from another, wherever its weights lie."""
    if initial.imagenet_weights is not None:
        return checkpoint.file_fingerprint(initial.imagenet_weights.expanduser())
    return initial.init if initial.init in WORDS else checkpoint.weights_fingerprint(Path(initial.init), "backbone")


def seen_after(initial: Initial, contents: np.ndarray | None) -> np.ndarray | None:
    """The images that weights were trained on, before and with these (as `Dataset.contents`); None if not known."""
    before = np.empty(0, np.uint64) if initial.init in WORDS else initialize.seen_images(Path(initial.init))
    return None if before is None or contents is None else np.concatenate([before, contents])
