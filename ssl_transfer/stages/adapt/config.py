"""Configure adaptation: settings, their checks, and the images of the target."""

from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.randomness import permutation, seed_from
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.objectives.domain_adaptation import Adaptation
from ssl_transfer.stages.transfer.config import PlannedConfig

from .domain_training import Choose, Target

M = TypeVar("M")
HELD_SHARE, LEAST_HELD = 0.15, 5
"""Share of the target's pool that is held out for the criteria where the target has no validation images; and the least
images of either part, as the A-distance is cross-validated."""


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(PlannedConfig, Generic[M]):
    """Train on labelled images of one domain for another domain, without the labels of the other."""

    method: M
    """Settings of the method."""
    source: str = "digits"
    """The labelled images (as --data elsewhere: digits, folder:PATH, npz:FILE, ...)."""
    target: str = ""
    """Images to adapt to: training and unlabelled images without labels; validation images without labels, to choose;
    test images once, at the end, with the labels that exist."""
    labels: str = "all"
    """Labelled images per class of the source, a share of each class, or all. Validation holds no more a class."""
    batch_size: int = 64
    """Images per optimiser step; where both domains are trained on, half of them of each."""
    domain_norm: Literal["shared", "separate"] = "shared"
    """BatchNorm's statistics: shared by both domains, or separate; the exported model then has the target's."""
    choose: Choose = "source"
    """Criterion that chooses among the candidates: source (log-loss of the source's validation images); or, without
    labels of the target, information (certain and varied predictions), density (soft neighbourhood density) or
    importance (the source's log-loss, weighted by the likelihood of its features in the target)."""
    oracle: bool = False
    """Report the best candidate by the target's validation labels too: an upper bound that is unknown in real use. It
    changes nothing else."""


def name_of(config: Any) -> str:
    """Return the name of the method of these settings."""
    return next(name for name, entry in ADAPTATIONS.items() if entry.config is type(config))


def method_named(name: str) -> Adaptation:
    """Look up a method of adaptation; InputError lists the names."""
    if name not in ADAPTATIONS:
        raise InputError(
            f"{name!r} is not a method of adaptation; there are {', '.join(ADAPTATIONS)}."
            f"{did_you_mean(name, ADAPTATIONS)}"
        )
    return ADAPTATIONS[name]


def settings_of(config: AdaptConfig[Any]) -> dict[str, Any]:
    """Turn the configuration into plain settings with the method's name, so that they can be run again."""
    settings = configuration.to_dict(config)
    settings["method"] = {"name": name_of(config.method), **settings["method"]}
    return settings


def check(config: AdaptConfig[Any], name: str, entry: Adaptation) -> None:
    """Refuse settings that contradict each other or would be ignored, before images are loaded."""
    if config.plans:
        raise InputError(f"--plans {' '.join(config.plans)}: adaptation trains one plan. Give --plan.")
    phases = config.phases(steps_per_epoch=1)
    trains_features = any(phase.trained != "head" for phase in phases)
    if not config.target:
        raise InputError("which target? Give --target DATA: the images to adapt to.")
    if entry.term is not None and not trains_features:
        raise InputError(
            f"{name} would do nothing: --plan {' '.join(config.plan)} trains the head alone, and {name} changes "
            "features. Take another plan, or source-only or adabn."
        )
    if entry.term is None and config.domain_norm == "separate":
        raise InputError(f"--domain-norm separate would be ignored: {name} trains on one domain. Leave it out.")
    if config.head.kind == "hidden" and (config.domain_norm == "separate" or entry.estimates_statistics):
        asked = "--domain-norm separate" if config.domain_norm == "separate" else name
        raise InputError(
            f"--head.kind hidden: normalises over the images of a batch, and {asked} sets the statistics of the "
            "backbone alone. Take another head."
        )
    if config.domain_norm == "separate" and config.batch_norm == "frozen":
        raise InputError("--domain-norm separate would be ignored: --batch-norm frozen moves no statistics. Give one.")
    partial = [phase.trained for phase in phases if phase.trained not in ("head", "all")]
    if config.frozen_views is not None and entry.term is not None and partial:
        raise InputError(
            f"--frozen-views {config.frozen_views}: the phase {partial[0]} of {name} sees both domains, whose features "
            "are not computed once. Leave it out."
        )


def target_images(config: AdaptConfig[Any], target: Dataset) -> Target:
    """Divide the target into images to adapt on and images held out for the criteria.

    Raises:
        InputError: there are none, or too few to hold any out.
    """
    pool, held = target.pool, target.splits["validation"]
    if len(held) < LEAST_HELD and len(pool):
        order = pool[permutation(seed_from(config.loading.split_seed, 3), 0, len(pool))]
        count = max(LEAST_HELD, round(HELD_SHARE * len(pool)))
        held, pool = order[:count], order[count:]
    if len(pool) < LEAST_HELD or len(held) < LEAST_HELD:
        parts = ", ".join(f"{len(indices)} {name}" for name, indices in target.splits.items())
        raise InputError(
            f"--target {target.source}: has too few images to adapt on ({parts}). Labels alone do not help, and its "
            "test images are for the end: put images without labels into its unlabeled/ or train/ part."
        )
    return Target(dataset=target, pool=pool, held=held)


def check_images(config: AdaptConfig[Any], entry: Adaptation, learned: Dataset, target: Target) -> None:
    """Refuse data without the labels that the method needs.

    Args:
        config: of the run.
        entry: the method.
        learned: whose labels are learned: the source's, or to train on the target the target's.
        target: images to adapt to.
    """
    flag = f"--target {config.target}" if entry.on_target else f"--source {config.source}"
    for part in ("train", "validation"):
        if not bool((learned.labels[learned.splits[part]] >= 0).any()):
            raise InputError(
                f"{flag}: has no labelled {part} images, and {name_of(config.method)} learns from its labels."
            )
    if config.oracle and not bool((target.dataset.labels[target.held] >= 0).all()):
        raise InputError(f"--oracle: the validation images of --target {config.target} have no labels. Leave it out.")


def without_copies(config: AdaptConfig[Any], source: Dataset, target: Dataset) -> Dataset:
    """Remove the source's training images from the target's test images (`loading.leakage`).

    Raises:
        InputError: some are, with the name of one.
    """
    test = target.splits["test"]
    if config.loading.leakage == "allow" or source.contents is None or target.contents is None:
        return target
    trained = source.contents[source.pool.numpy()]
    copied = torch.from_numpy(np.isin(target.contents[test.numpy()], trained))
    if not bool(copied.any()):
        return target
    name = target.names[int(test[copied][0])]
    message = f"{counted(int(copied.sum()), 'test image')} of {target.source} (for example {name}) are the source's too"
    if config.loading.leakage == "stop":
        raise InputError(
            f"{message}, for training: a measure on them shows nothing. --loading.leakage drop leaves them out, allow "
            "keeps them."
        )
    kept = {**target.splits, "test": test[~copied]}
    return replace(target, splits=kept, notes=(*target.notes, f"{message}: left out (--loading.leakage drop)."))


def labelled_test(target: Dataset) -> Tensor:
    """Return the target's test images with labels: (T,) int64."""
    test = target.splits["test"]
    return test[target.labels[test] >= 0]
