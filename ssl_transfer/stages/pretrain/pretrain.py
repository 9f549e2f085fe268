"""Pretrain a backbone on images without labels: from the pool to an exported backbone."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ssl_transfer.data import sources
from ssl_transfer.data.loaders.loader import Loader
from ssl_transfer.data.loaders.stream import open_stream
from ssl_transfer.data.loaders.stream_loader import StreamLoader
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.data.store.storage_layout import kept
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.optimization.optimizers import parameter_groups
from ssl_transfer.engine.runs.checkpoint_files import StateFiles
from ssl_transfer.engine.runs.run_folder import RunFolder, environment
from ssl_transfer.engine.tracking.tracker import Tracker
from ssl_transfer.engine.training.early_stopping import Watched
from ssl_transfer.engine.training.gradients import check_accumulation
from ssl_transfer.engine.training.loop import train
from ssl_transfer.engine.training.objective import Batches
from ssl_transfer.engine.training.training_plan import Saving, TrainingPlan
from ssl_transfer.engine.training.validation import Validation
from ssl_transfer.methods import METHODS
from ssl_transfer.models import pretrained
from ssl_transfer.stages.common import augmentation_flag as augmentations
from ssl_transfer.stages.common import run_stage
from ssl_transfer.stages.common.checkpoint_data import matched
from ssl_transfer.stages.common.initialization import fingerprint_of, initial_backbone, is_run, label_of, seen_after
from ssl_transfer.stages.common.method_argument import take_method

from . import monitoring
from .config import (
    PretrainConfig,
    check_normalised,
    fitted,
    method_named,
    name_of,
    prepare,
    pretrain_config,
    resolved,
    settings_of,
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
    identity = run_stage.Identity(
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
            monitoring.draw_views(folder.path / "views.png", views, dataset, size=config.size, seed=config.seed)
        alarm = monitoring.alarm(
            name,
            entry,
            batch_size=config.batch_size,
            warmup_steps=config.optimizer.warmup_steps,
            runtime=runtime,
        )

        def evaluate() -> dict[str, float]:
            if runtime.is_main:
                picture = folder.path / "reconstructions.png"
                monitoring.draw_reconstructions(picture, name, entry, method, backbone, dataset, runtime)
            return monitoring.measure(backbone, dataset, runtime)

        watched = Watched(metric="knn_accuracy", higher_is_better=True) if monitoring.is_labelled(dataset) else None
        cost = train(
            method,
            parameter_groups(
                method,
                learning_rate=config.optimizer.learning_rate,
                weight_decay=config.optimizer.weight_decay,
                undecayed=method.undecayed() | {f"backbone.{parameter}" for parameter in backbone.undecayed()},
            ),
            loader,
            plan=TrainingPlan(phase=name, epochs=config.epochs, seed=config.seed, optimizer=config.optimizer),
            saving=Saving(
                tracker=tracker,
                metrics_path=folder.metrics,
                states=StateFiles(folder=folder.checkpoints, name="last", best="best", config=config.checkpoints),
            ),
            runtime=runtime,
            validation=Validation(evaluate=evaluate, every=config.evaluate_every, watched=watched),
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
            pretrained.export(backbone, folder.path / "backbone", provenance, images=kept(dataset), seen=seen)
        return result

    return run_stage.within(identity, runtime, work, _describe, quiet=quiet)


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
