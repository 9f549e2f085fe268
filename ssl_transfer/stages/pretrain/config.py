"""Configure pretraining runs."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.objective import Objective
from ssl_transfer.methods import METHODS
from ssl_transfer.methods.base import Method
from ssl_transfer.models import backbones
from ssl_transfer.stages.common import augmentation_flag as augmentations
from ssl_transfer.stages.common.initialization import AUTO, Initial, image_size_of, network_of
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.common.run_config import VOLATILE, RunConfig, check_positive

M = TypeVar("M")
R = TypeVar("R", bound="Recipe[Any]")


FREE = (*VOLATILE, "init", "imagenet_weights")
"""Settings that may change between two starts: weights may be moved."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[M]):
    """Configure how one method pretrains one backbone."""

    method: M
    """Settings of the method."""
    backbone: backbones.BackboneConfig
    """Backbone to pretrain. The name auto is the method's suggestion, or the backbone of the run that --init names."""
    optimizer: OptimizerConfig
    """Optimiser of the pretraining."""
    epochs: int
    """Passes over the pool."""
    batch_size: int
    """Images per optimiser step over all processes."""
    evaluate_every: int = 10
    """Epochs between measurements on held-out images: kNN accuracy (neighbours among training images, queries from
    validation), effective rank, deviation, alignment and uniformity of the features, a picture of reconstructions."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig, Recipe[M], Initial, Generic[M]):
    """Pretrain a backbone on images without labels."""

    seed: int = 0
    """Seed of weights, order and augmentation."""

    keeps_size: ClassVar[bool] = False
    """False: a run's backbone may be pretrained at another image size."""


def default_recipe(name: str, augmentation: str = augmentations.NATURAL) -> Recipe[Any]:
    """Return a method's default recipe, for a kind of images (`data.transforms.presets.KINDS`)."""
    entry = method_named(name)
    recipe = Recipe[entry.config](  # type: ignore[name-defined]
        method=entry.config(),
        backbone=entry.backbone,
        optimizer=entry.optimizer,
        epochs=entry.epochs,
        batch_size=entry.batch_size,
    )
    return augmentations.adapted(recipe, augmentation)


def pretrain_config(name: str, augmentation: str = augmentations.NATURAL) -> PretrainConfig[Any]:
    """Return the default settings of pretraining with a method, for `dataclasses.replace` to change."""
    # The name stays open: a user who names the method's backbone gets an error where the run holds another.
    recipe = replace(default_recipe(name, augmentation), backbone=backbones.BackboneConfig(name=AUTO))
    return PretrainConfig[Any](**configuration.shallow(recipe))


def method_named(name: str) -> Method:
    """Look up a method; InputError lists the names."""
    if name not in METHODS:
        raise InputError(f"{name!r} is not a method; there are {', '.join(METHODS)}.{did_you_mean(name, METHODS)}")
    return METHODS[name]


def name_of(config: Any) -> str:
    """Return the name of the method of these settings."""
    return next(name for name, entry in METHODS.items() if entry.config is type(config))


def settings_of(config: PretrainConfig[Any]) -> dict[str, Any]:
    """Turn the configuration into plain settings with the method's name, so that they can be run again."""
    settings = configuration.to_dict(config)
    settings["method"] = {"name": name_of(config.method), **settings["method"]}
    return settings


def resolved(config: PretrainConfig[M], run: Run | None) -> PretrainConfig[M]:
    """Fill in the backbone and the image size; `run` is the one that `init` names."""
    backbone = network_of(config, run, METHODS[name_of(config.method)].backbone)
    return replace(config, backbone=backbone, image_size=image_size_of(config, run))


def fitted(recipe: R, num_images: int) -> R:
    """Let the method adjust its settings to the number of images in the pool."""
    return replace(recipe, method=METHODS[name_of(recipe.method)].fitted(recipe.method, num_images))


def prepare(recipe: Recipe[Any], backbone: backbones.Backbone) -> Objective:
    """Build the method around an initialised backbone; InputError for every setting that does not fit."""
    check_positive(epochs=recipe.epochs, batch_size=recipe.batch_size, evaluate_every=recipe.evaluate_every)
    entry, spec = METHODS[name_of(recipe.method)], backbone.spec
    if entry.backbones == "vit" and not backbones.is_vit_name(spec.name):
        raise InputError(
            f"--backbone.name {spec.name}: {name_of(recipe.method)} needs a vision transformer, "
            f"for example {entry.backbone.name}."
        )
    if spec.keep_blocks is not None:
        raise InputError(f"{spec.label} keeps only its first blocks: pretraining goes on from a whole backbone.")
    module = entry.module(backbone, recipe.method)
    check_normalised(module, recipe.batch_size)
    return module


def check_normalised(module: Objective, count: int) -> None:
    """Refuse one image at a time for BatchNorm; `count` images are normalised together."""
    normed = any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in module.modules())
    if count < 2 and normed:
        raise InputError(
            f"--batch-size: {count} image a process, and BatchNorm needs two or more. Give a larger one, or fewer "
            "processes."
        )
