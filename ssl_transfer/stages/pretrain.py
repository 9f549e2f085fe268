"""Pretrain a backbone on images without labels: from the pool to an exported backbone."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from ..data import sources
from ..data.layout import kept
from ..data.loaders import Loader
from ..data.stream import open_stream
from ..data.stream_loader import StreamLoader
from ..engine import config as configuration
from ..engine import runtime as runtimes
from ..engine.contract import Batches, Objective
from ..engine.errors import InputError, did_you_mean
from ..engine.folder import RunFolder, environment
from ..engine.gradients import check_accumulation
from ..engine.loop import train
from ..engine.optim import OptimizerConfig, parameter_groups
from ..engine.state_files import StateFiles
from ..engine.stopping import Watched
from ..engine.tracking import Tracker
from ..methods import METHODS
from ..methods.method import Method
from ..models import backbones, initialize
from . import augmentation as augmentations
from . import planned, watch
from .initial import AUTO, Initial, decided, fingerprint_of, initial_backbone, is_run, label_of, seen_after
from .matching import matched
from .naming import take_method
from .run import VOLATILE, RunConfig, check_positive, data_label

M = TypeVar("M")
R = TypeVar("R", bound="Recipe[Any]")


FREE = (*VOLATILE, "init", "imagenet_weights")
"""Settings that may change between two starts: the same weights may lie elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[M]):
    """How one method pretrains one backbone."""

    method: M
    """The method's own settings."""
    backbone: backbones.BackboneConfig
    """What is pretrained. The name auto is what the method suggests, or what the run holds that --init names."""
    optimizer: OptimizerConfig
    """How it is stepped."""
    epochs: int
    """Passes over the pool."""
    batch_size: int
    """Images per optimiser step over all processes."""
    evaluate_every: int = 10
    """Epochs between measurements on held-out images: kNN accuracy (neighbours among training images, queries from
    validation), effective rank, deviation, alignment and uniformity of the features, a picture of what is painted."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(RunConfig, Recipe[M], Initial, Generic[M]):
    """Pretrain a backbone on images without labels."""

    seed: int = 0
    """Seed of weights, order and augmentation."""

    @property
    def size(self) -> int:
        """Pixels a side, decided; of a run's backbone another size than that of the run may be pretrained."""
        return super().size if self.image_size is None else self.image_size


def default_recipe(name: str, augmentation: str = augmentations.NATURAL) -> Recipe[Any]:
    """A method with the settings that its file gives it, for a kind of images (`data.presets.KINDS`)."""
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
    """All settings of pretraining with a method, for `dataclasses.replace` to change."""
    # Not the method's own backbone: who names that one too must hear when a run holds another.
    recipe = replace(default_recipe(name, augmentation), backbone=backbones.BackboneConfig(name=AUTO))
    return PretrainConfig[Any](**configuration.shallow(recipe))


def method_named(name: str) -> Method:
    """An entry of METHODS; InputError with the names there are."""
    if name not in METHODS:
        raise InputError(f"{name!r} is not a method; there are {', '.join(METHODS)}.{did_you_mean(name, METHODS)}")
    return METHODS[name]


def name_of(config: Any) -> str:
    """The name of the method that these settings belong to."""
    return next(name for name, entry in METHODS.items() if entry.config is type(config))


def settings_of(config: PretrainConfig[Any]) -> dict[str, Any]:
    """The resolved settings, with the method's name, so that they can be run again."""
    settings = configuration.to_dict(config)
    settings["method"] = {"name": name_of(config.method), **settings["method"]}
    return settings


def resolved(config: PretrainConfig[M]) -> PretrainConfig[M]:
    """The same with its backbone and its image size decided."""
    backbone = decided(config.init, config.backbone, METHODS[name_of(config.method)].backbone)
    return replace(config, backbone=backbone, image_size=config.size)


def fitted(recipe: R, num_images: int) -> R:
    """The recipe with the settings that its method takes for a pool of so many images."""
    return replace(recipe, method=METHODS[name_of(recipe.method)].fitted(recipe.method, num_images))


def prepare(recipe: Recipe[Any], backbone: backbones.Backbone) -> Objective:
    """The method's module around a backbone that has its first weights; every bad setting is found here."""
    check_positive(epochs=recipe.epochs, batch_size=recipe.batch_size, evaluate_every=recipe.evaluate_every)
    entry, spec = METHODS[name_of(recipe.method)], backbone.spec
    if entry.backbones == "vit" and not backbones.is_vit_name(spec.name):
        raise InputError(
            f"--backbone.name {spec.name}: {name_of(recipe.method)} needs a vision transformer, "
            f"for example {entry.backbone.name}."
        )
    if spec.keep_blocks is not None:
        raise InputError(f"{spec.label} keeps only its first blocks: pretraining goes on from a whole backbone.")
    module = entry.build(backbone, recipe.method)
    check_normalised(module, recipe.batch_size)
    return module


def check_normalised(module: Objective, count: int) -> None:
    """Raise InputError where BatchNorm would get `count` images at a time, and that is one."""
    normed = any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in module.modules())
    if count < 2 and normed:
        raise InputError(
            f"--batch-size: {count} image a process, and BatchNorm needs two or more. Give a larger one, or fewer "
            "processes."
        )


def pretrain(
    config: PretrainConfig[Any],
    *,
    runtime: runtimes.Runtime | None = None,
    dataset: sources.Dataset | None = None,
    group: str = "pretrain",
    title: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Run it, or go on with it, or return the result of the finished run.

    Args:
        config: see its fields.
        runtime: shared with other stages of one process; by default a new one.
        dataset: already loaded images of `config.data`; by default they are loaded.
        group: wandb's group.
        title: wandb's name of the run; by default that of its folder.
        quiet: say nothing but the progress bar, for whoever runs many.

    Returns:
        `backbone` (path of the export), `seconds`, `images_seen`, `steps`, `peak_memory_mb`, `num_parameters`, what
        `watch.measure` found in the end, and `collapsed`: the step and values of a collapse, or empty.
    """
    runtime = runtime or runtimes.start(config.mixed_precision, deterministic=config.deterministic)
    name, config = name_of(config.method), resolved(config)
    stream = None
    if config.loading.streaming:
        stream = open_stream(config.data, image_size=config.size, config=config.loading)
        dataset = stream.sample
    dataset = dataset or sources.load(config.data, image_size=config.size, config=config.loading)
    num_images = len(dataset.pool) if stream is None else stream.num_images
    asked, config = config, fitted(config, num_images)
    backbone, earlier = initial_backbone(config, dataset)
    if is_run(config.init):
        dataset = matched(dataset, backbone.spec, Path(config.init), config.loading)
    # The backbone has its weights by now: methods copy it.
    method = prepare(config, backbone)
    together = config.optimizer.sync_batch_norm and method.normalised_together
    check_normalised(method, config.batch_size // (1 if together else runtime.num_processes))
    loader: Batches
    if stream is not None:
        stream = replace(stream, sample=dataset)
        loader = StreamLoader(stream, batch_size=config.batch_size, seed=config.seed, runtime=runtime)
    else:
        loader = Loader(
            dataset, dataset.pool, batch_size=config.batch_size, seed=config.seed, runtime=runtime, labelled=False
        )
    check_accumulation(method.eval(), config.optimizer.accumulate, runtime)
    settings = settings_of(config)
    start = "" if config.init == "scratch" else f"{label_of(config.init)}+"
    output = config.output or Path(
        f"runs/pretrain-{start}{name}-{config.backbone.name.replace('/', '-')}-{data_label(config.data)}"
        f"-seed{config.seed}"
    )
    fingerprints = {"data": dataset.fingerprint, "init": fingerprint_of(config)}
    changed = [
        f"\n{field.name}: {after} instead of {before}, for {num_images} images."
        for field in fields(asked.method)
        if (before := getattr(asked.method, field.name)) != (after := getattr(config.method, field.name))
    ]
    introduction = (
        f"{augmentations.introduce(dataset, config)}{''.join(changed)}\n"
        f"pretraining {backbone.spec.label} from {config.init} with {name}: {num_images} images, "
        f"{config.epochs} epochs, {config.epochs * loader.steps_per_epoch} steps of {config.batch_size} images; "
        f"{runtime.describe()}"
    )
    identity = planned.Identity(
        stage="pretrain",
        config=config,
        settings=settings,
        output=output,
        fingerprints=fingerprints,
        introduction=introduction,
        group=group,
        title=title,
    )

    def work(folder: RunFolder, tracker: Tracker) -> dict[str, Any]:
        entry = METHODS[name]
        if runtime.is_main:
            views = entry.views(config.method)
            watch.draw_views(folder.path / "views.png", views, dataset, size=config.size, seed=config.seed)
        alarm = watch.alarm(
            name,
            entry,
            batch_size=config.batch_size,
            warmup_steps=config.optimizer.warmup_steps,
            runtime=runtime,
        )

        def evaluate() -> dict[str, float]:
            if runtime.is_main:
                picture = folder.path / "reconstructions.png"
                watch.draw_reconstructions(picture, name, entry, method, backbone, dataset, runtime)
            return watch.measure(backbone, dataset, runtime)

        cost = train(
            method,
            parameter_groups(
                method,
                learning_rate=config.optimizer.learning_rate,
                weight_decay=config.optimizer.weight_decay,
                undecayed=method.undecayed() | {f"backbone.{parameter}" for parameter in backbone.undecayed()},
            ),
            loader,
            optimizer=config.optimizer,
            epochs=config.epochs,
            seed=config.seed,
            phase=name,
            runtime=runtime,
            tracker=tracker,
            states=StateFiles(folder=folder.checkpoints, name="last", best="best", config=config.checkpoints),
            metrics_path=folder.metrics,
            evaluate=evaluate,
            evaluate_every=config.evaluate_every,
            watched=Watched(metric="knn_accuracy", higher_is_better=True) if watch.is_labelled(dataset) else None,
            monitor=alarm,
        )
        result = {
            "backbone": str(folder.path / "backbone"),
            **{field.name: getattr(cost, field.name) for field in fields(cost)},
            "num_parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            **evaluate(),
            "collapsed": alarm.collapsed,
        }
        tracker.summarize({name: value for name, value in result.items() if isinstance(value, (int, float))})
        provenance = {
            "method": name,
            "init": earlier,
            "settings": settings,
            "data_fingerprint": dataset.fingerprint,
            "images_seen": cost.images_seen,
            "environment": environment(runtime),
        }
        if runtime.is_main:
            # Of a stream it is not known which images it brought.
            seen = dataset.contents[dataset.pool.numpy()] if dataset.contents is not None and stream is None else None
            seen = seen_after(config, seen)
            initialize.export(backbone, folder.path / "backbone", provenance, images=kept(dataset), seen=seen)
        return result

    return planned.within(identity, runtime, work, _describe, quiet=quiet)


def _describe(result: dict[str, Any], output: Path, runtime: runtimes.Runtime) -> None:
    """Print what a run came to."""
    knn = f", kNN accuracy on validation {result['knn_accuracy']:.1%}" if "knn_accuracy" in result else ""
    runtime.say(
        f"{output}: {result['steps']} steps in {result['seconds']:.0f} s{knn}, effective rank "
        f"{result['effective_rank']:.1f}; backbone in {result['backbone']}"
    )


def main(arguments: Sequence[str], program: str = "ssl-transfer pretrain") -> None:
    """`pretrain METHOD [flags]`; the method may also stand in the --config file as `method: {name: ...}`."""
    usage = f"usage: {program} METHOD [--help] [flags]\n\nPretrain a backbone on images without labels. Methods:"
    summaries = {key: entry.summary for key, entry in METHODS.items()}
    name, images, settings, rest = take_method(arguments, usage, summaries)
    entry, default = method_named(name), pretrain_config(name, images)
    kind: Any = PretrainConfig[entry.config]  # type: ignore[name-defined]
    note = f"The backbone auto is {entry.backbone.name}, or that of the run that --init names.\n\n{augmentations.HELP}"
    config = configuration.parse(kind, settings, rest, program=f"{program} {name}", default=default, note=note)
    pretrain(config)
