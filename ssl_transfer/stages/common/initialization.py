"""Initialise the backbone of a run: random weights, public weights, or the weights of another run."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.weight_files import file_fingerprint
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.init_names import CONTINUED, TIMM

from .run import Run
from .run_config import IMAGE_SIZE

WORDS = ("scratch", "imagenet")
"""Initialisations by name."""
AUTO = "auto"
"""Name of a backbone that is still open."""


def is_run(init: str) -> bool:
    """Check for the folder of a run."""
    return init not in WORDS and not init.startswith(TIMM)


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Configure the origin of a backbone."""

    init: Annotated[str, *configuration.words(WORDS, "timm:NAME|RUN")] = "scratch"
    """Initial weights of the backbone: scratch, imagenet, timm:NAME (any weights of timm, such as
    timm:resnet18.a1_in1k), or the folder of a run."""
    image_size: int | None = None
    """Pixels a side of the models' input. Default: 64, or those of the run that --init names."""
    backbone: backbones.BackboneConfig = field(default_factory=backbones.BackboneConfig)
    """The network for scratch and imagenet; a run's folder and timm:NAME name their own."""
    imagenet_weights: Path | None = None
    """A local file with ImageNet weights in timm's names (of torchvision/NAME in torchvision's), instead of a hub."""
    seed: int = 0
    """Seed of the labelled images, of weights, order and augmentation."""

    keeps_size: ClassVar[bool] = True
    """True where a run's backbone takes images of its own size alone."""


def open_initial_run(initial: Initial) -> Run | None:
    """Open the run that `init` names; None where it names none.

    Raises:
        InputError: the folder holds no backbone; the message lists the other values of `init`.
    """
    if not is_run(initial.init):
        return None
    run = Run(Path(initial.init))
    if initial.init.startswith(CONTINUED) and not run.path.exists():
        raise InputError(
            f"--init {initial.init}: that is an arm of compare. To go on from ImageNet here give --init imagenet."
        )
    try:
        _ = run.backbone_file
    except InputError as error:
        raise InputError(f"--init {error} Or give {', '.join(WORDS)} or timm:NAME.") from error
    return run


def image_size_of(initial: Initial, run: Run | None) -> int:
    """Return the pixels a side of the models' input.

    Raises:
        InputError: another size than that of the run.
    """
    if run is None or (initial.image_size is not None and not initial.keeps_size):
        return IMAGE_SIZE if initial.image_size is None else initial.image_size
    size = run.spec.image_size
    if initial.image_size not in (None, size):
        raise InputError(f"--image-size {initial.image_size}: --init {initial.init} takes {size} pixels. Leave it out.")
    return size


def label_of(init: str) -> str:
    """Turn an initialisation into a part of a folder's name."""
    return re.sub(r"[^\w.+-]+", "-", Path(init).name)


def initial_backbone(initial: Initial, dataset: Dataset, run: Run | None) -> tuple[backbones.Backbone, dict[str, Any]]:
    """Build the backbone with its first weights, and return it with its provenance.

    torch's random numbers after it are a function of the seed.

    Args:
        initial: which weights.
        dataset: images at hand: channels, mean, standard deviation.
        run: from `open_initial_run`.

    Raises:
        InputError: a setting would be ignored; the weights cannot be had or do not fit.
    """
    if initial.imagenet_weights is not None and (initial.init == "scratch" or run is not None):
        raise InputError(f"--imagenet-weights would be ignored with --init {initial.init}.")
    if initial.init == "scratch":
        return pretrained.scratch(_spec(initial, dataset), seed=seed_from(initial.seed, 0)), {"init": "scratch"}
    if run is not None:
        if initial.backbone not in (backbones.BackboneConfig(), run.spec.config):
            raise InputError(f"--backbone would be ignored: --init {initial.init} names its own. Leave it out.")
        backbone, provenance = run.load_backbone(image_size=image_size_of(initial, run)), run.provenance
    elif initial.init == "imagenet":
        backbone = pretrained.imagenet(_spec(initial, dataset), weights=initial.imagenet_weights)
        provenance = {"init": "imagenet"}
    else:
        _, name = pretrained.pretrained_name(initial.init.removeprefix(TIMM))
        own = replace(initial, backbone=timm_backbone(initial.init, initial.backbone))
        backbone = pretrained.imagenet(_spec(own, dataset), weights=initial.imagenet_weights, name=name)
        provenance = {"init": f"{TIMM}{name}"}
    # The number of draws depends on the origin of the weights.
    torch.manual_seed(seed_from(initial.seed, 0))
    return backbone, provenance


def _spec(initial: Initial, dataset: Dataset) -> backbones.BackboneSpec:
    """Resolve the backbone's settings for the images at hand."""
    mean, std = dataset.statistics()
    return backbones.make_spec(
        initial.backbone,
        in_chans=dataset.num_channels,
        image_size=image_size_of(initial, None),
        mean=mean,
        std=std,
        value_range=dataset.value_range,
    )


def named(backbone: backbones.BackboneConfig, fallback: backbones.BackboneConfig) -> backbones.BackboneConfig:
    """Return the backbone where it has a name; otherwise the fallback with the stem and arguments that were set."""
    if backbone.name != AUTO:
        return backbone
    return fallback if backbone == backbones.BackboneConfig(name=AUTO) else replace(backbone, name=fallback.name)


def network_of_run(run: Run, given: backbones.BackboneConfig) -> backbones.BackboneConfig:
    """Return the network of a run's backbone.

    Raises:
        InputError: the user asked for another one.
    """
    found = run.spec.config
    wanted = replace(named(given, found), stem=found.stem if given.stem == "auto" else given.stem)
    if wanted != found:
        shown = [" ".join([one.name, f"stem {one.stem}", *one.arguments]) for one in (given, found)]
        raise InputError(f"--backbone.name {shown[0]}: --init {run.path} holds {shown[1]}. Leave --backbone out.")
    return found


def network_of(initial: Initial, run: Run | None, suggested: backbones.BackboneConfig) -> backbones.BackboneConfig:
    """Return the network of an initialisation: its own where it has one, otherwise the given or the suggested one."""
    if initial.init.startswith(TIMM):
        return timm_backbone(initial.init, initial.backbone)
    return named(initial.backbone, suggested) if run is None else network_of_run(run, initial.backbone)


def timm_backbone(init: str, given: backbones.BackboneConfig) -> backbones.BackboneConfig:
    """Return the network of timm:NAME, with the stem that its weights fit unless another was set.

    Raises:
        InputError: timm has no such weights; another network was asked for.
    """
    architecture, _ = pretrained.pretrained_name(init.removeprefix(TIMM))
    if given.name not in (architecture, AUTO) and given != backbones.BackboneConfig():
        raise InputError(f"--backbone.name {given.name}: --init {init} is {architecture}. Leave --backbone.name out.")
    return replace(given, name=architecture, stem="standard" if given.stem == "auto" else given.stem)


def fingerprint_of(initial: Initial, run: Run | None) -> str:
    """Identify the initial weights, independent of their place."""
    if initial.imagenet_weights is not None:
        return file_fingerprint(pretrained.weights_file(initial.imagenet_weights))
    return initial.init if run is None else run.backbone_file.fingerprint


def seen_after(run: Run | None, contents: np.ndarray | None) -> np.ndarray | None:
    """Join the training images of the initial run with these, as in `Dataset.contents`; None where unknown."""
    before = np.empty(0, np.uint64) if run is None else run.seen
    return None if before is None or contents is None else np.concatenate([before, contents])
