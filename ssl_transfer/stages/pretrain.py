"""Pretrain a backbone on images without labels: from the pool to an exported backbone."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..data import sources
from ..data.loaders import Loader
from ..data.stream import open_stream
from ..data.stream_loader import StreamLoader
from ..engine import config as configuration
from ..engine import runtime as runtimes
from ..engine.errors import InputError, did_you_mean
from ..engine.folder import RunFolder, environment
from ..engine.gradients import check_accumulation
from ..engine.loop import Batches, train
from ..engine.optim import OptimizerConfig, parameter_groups
from ..engine.randomness import seed_from
from ..engine.stopping import Watched
from ..engine.tracking import Tracker
from ..methods import METHODS
from ..methods.method import Method
from ..models import backbones, initialize
from . import augmentation as augmentations
from . import watch
from .run import IMAGE_SIZE, VOLATILE, RunConfig, check_positive, data_label

M = TypeVar("M")


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[M]):
    """How one method pretrains one backbone."""

    method: M
    """The method's own settings."""
    backbone: backbones.BackboneConfig
    """What is pretrained."""
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
class PretrainConfig(RunConfig, Recipe[M], Generic[M]):
    """Pretrain a backbone on images without labels."""

    image_size: int = IMAGE_SIZE
    """Pixels a side of what the models see."""
    seed: int = 0
    """Seed of weights, order and augmentation."""


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


def prepare(
    recipe: Recipe[Any], dataset: sources.Dataset, image_size: int, seed: int
) -> tuple[backbones.Backbone, Any]:
    """The backbone with its first weights and the method's module around it; every bad setting is found here."""
    check_positive(epochs=recipe.epochs, batch_size=recipe.batch_size, evaluate_every=recipe.evaluate_every)
    entry = METHODS[name_of(recipe.method)]
    if entry.backbones == "vit" and not backbones.is_vit_name(recipe.backbone.name):
        raise InputError(
            f"--backbone.name {recipe.backbone.name}: {name_of(recipe.method)} needs a vision transformer, "
            f"for example {entry.backbone.name}."
        )
    mean, std = dataset.statistics()
    spec = backbones.make_spec(
        recipe.backbone,
        in_chans=dataset.num_channels,
        image_size=image_size,
        mean=mean,
        std=std,
        value_range=dataset.value_range,
    )
    backbone = initialize.scratch(spec, seed=seed_from(seed, 0))
    return backbone, entry.build(backbone, recipe.method)


def pretrain(
    config: PretrainConfig[Any],
    *,
    runtime: runtimes.Runtime | None = None,
    dataset: sources.Dataset | None = None,
    group: str = "pretrain",
    quiet: bool = False,
) -> dict[str, Any]:
    """Run it, or go on with it, or return the result of the finished run.

    Args:
        config: see its fields.
        runtime: shared with other stages of one process; by default a new one.
        dataset: already loaded images of `config.data`; by default they are loaded.
        group: wandb's group.
        quiet: say nothing but the progress bar, for whoever runs many.

    Returns:
        `backbone` (path of the export), `seconds`, `images_seen`, `steps`, `peak_memory_mb`, `num_parameters`, what
        `watch.measure` found in the end, and `collapsed`: the step and values of a collapse, or empty.
    """
    runtime = runtime or runtimes.start(config.mixed_precision)

    def say(message: str) -> None:
        if not quiet:
            runtime.say(message)

    name = name_of(config.method)
    stream = None
    if config.loading.streaming:
        stream = open_stream(config.data, image_size=config.image_size, config=config.loading)
        dataset = stream.sample
    dataset = dataset or sources.load(config.data, image_size=config.image_size, config=config.loading)
    backbone, method = prepare(config, dataset, config.image_size, config.seed)
    loader: Batches
    if stream is not None:
        num_images = stream.num_images
        loader = StreamLoader(stream, batch_size=config.batch_size, seed=config.seed, runtime=runtime)
    else:
        num_images = len(dataset.pool)
        loader = Loader(
            dataset, dataset.pool, batch_size=config.batch_size, seed=config.seed, runtime=runtime, labelled=False
        )
    check_accumulation(method.eval(), config.optimizer.accumulate, runtime)
    settings = settings_of(config)
    output = config.output or Path(
        f"runs/pretrain-{name}-{config.backbone.name.replace('/', '-')}-{data_label(config.data)}-seed{config.seed}"
    )
    identity = {"data": dataset.fingerprint}
    with RunFolder(output, settings, runtime, identity=identity, fresh=config.fresh, volatile=VOLATILE) as folder:
        if folder.result is not None:
            say(f"{output}: finished before; nothing to do (--fresh starts over)")
            return folder.result
        say(augmentations.introduce(dataset, config))
        say(
            f"pretraining {backbone.spec.label} with {name}: {num_images} images, {config.epochs} epochs, "
            f"{config.epochs * loader.steps_per_epoch} steps of {config.batch_size} images; {runtime.describe()}"
        )
        entry = METHODS[name]
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

        tracker = Tracker(folder.metrics, config.tracking, runtime, settings=settings, group=group, job_type="pretrain")
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
            state_path=folder.checkpoints / "last.pt",
            metrics_path=folder.metrics,
            evaluate=evaluate,
            evaluate_every=config.evaluate_every,
            watched=Watched(metric="knn_accuracy", higher_is_better=True) if watch.is_labelled(dataset) else None,
            monitor=alarm,
        )
        tracker.close()
        result = {
            "backbone": str(output / "backbone"),
            **{field.name: getattr(cost, field.name) for field in fields(cost)},
            "num_parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            **evaluate(),
            "collapsed": alarm.collapsed,
        }
        provenance = {
            "method": name,
            "settings": settings,
            "data_fingerprint": dataset.fingerprint,
            "images_seen": cost.images_seen,
            "environment": environment(runtime),
        }
        if runtime.is_main:
            # Of a stream it is not known which images it brought.
            seen = dataset.contents[dataset.pool.numpy()] if dataset.contents is not None and stream is None else None
            initialize.export(backbone, output / "backbone", provenance, seen=seen)
        folder.finish(result)
        knn = f", kNN accuracy on validation {result['knn_accuracy']:.1%}" if "knn_accuracy" in result else ""
        rank = f", effective rank {result['effective_rank']:.1f} of {backbone.num_features}"
        say(f"{output}: {cost.steps} steps in {cost.seconds:.0f} s{knn}{rank}; backbone in {result['backbone']}")
        return result


def main(arguments: Sequence[str], program: str = "ssl-transfer pretrain") -> None:
    """`pretrain METHOD [flags]`; the method may also stand in the --config file as `method: {name: ...}`."""
    settings, rest = configuration.take_config(arguments)
    images, settings, rest = augmentations.take(settings, rest)
    method_settings = settings.get("method")
    name = method_settings.pop("name", None) if isinstance(method_settings, dict) else None
    if rest and not rest[0].startswith("-"):
        name = rest.pop(0)
    if name is None:
        choices = "\n".join(f"  {key:12} {entry.summary}" for key, entry in METHODS.items())
        usage = (
            f"usage: {program} METHOD [--help] [flags]\n\n"
            f"Pretrain a backbone on images without labels. Methods:\n{choices}"
        )
        if set(rest) & {"-h", "--help"}:
            print(usage)
            return
        raise InputError(f"which method?\n{usage}")
    entry, recipe = method_named(name), default_recipe(name, images)
    kind: Any = PretrainConfig[entry.config]  # type: ignore[name-defined]
    default, note = kind(**configuration.shallow(recipe)), augmentations.HELP
    config = configuration.parse(kind, settings, rest, program=f"{program} {name}", default=default, note=note)
    pretrain(config)
