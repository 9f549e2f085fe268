"""Pretrain a backbone on images without labels: from the pool to an exported backbone."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ssl_transfer.data import sources
from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.loaders.loader import Loader
from ssl_transfer.data.loaders.stream import Stream, open_stream
from ssl_transfer.data.loaders.stream_loader import StreamLoader
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.data.store.storage_layout import kept
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.optimization.optimizers import parameter_groups
from ssl_transfer.engine.printable import one_line
from ssl_transfer.engine.runs.checkpoint_files import StateFiles
from ssl_transfer.engine.runs.run_folder import RunFolder, environment
from ssl_transfer.engine.tracking.tracker import Tracker
from ssl_transfer.engine.training.early_stopping import Watched
from ssl_transfer.engine.training.gradients import check_accumulation
from ssl_transfer.engine.training.loop import train
from ssl_transfer.engine.training.objective import Batches, Objective
from ssl_transfer.engine.training.training_settings import Saving, Summary, TrainingPlan
from ssl_transfer.engine.training.validation import Validation
from ssl_transfer.methods import METHODS
from ssl_transfer.models import pretrained
from ssl_transfer.models.backbones import Backbone
from ssl_transfer.stages.common import augmentation_flag as augmentations
from ssl_transfer.stages.common.checkpoint_data import matched
from ssl_transfer.stages.common.command_line import AUGMENTATION, take_method
from ssl_transfer.stages.common.initialization import (
    fingerprint_of,
    image_size_of,
    initial_backbone,
    label_of,
    open_initial_run,
    seen_after,
)
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.common.stage_template import Prepared, Stage, run_stage, runtime_for

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
    runtime: Runtime | None = None,
    dataset: Dataset | None = None,
    group: str = "pretrain",
    title: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Pretrain a backbone; resume a stopped run, or return the result of the finished run.

    `dataset` are already loaded images of `config.data`; by default they are loaded. The other arguments are fields of
    `stage_template.Stage`.

    Returns:
        `backbone` (path of the export), `seconds`, `images_seen`, `steps`, `peak_memory_mb`, `num_parameters`, the
        final measures of `monitoring.measure`, and `collapsed`: step and values of a collapse, or empty.
    """
    runtime, run = runtime_for(config, runtime), open_initial_run(config)
    asked, stream = resolved(config, run), None
    if config.loading.streaming:
        stream = open_stream(config.data, image_size=image_size_of(config, run), config=config.loading)
        dataset = stream.sample
    images = dataset or sources.load(config.data, image_size=image_size_of(config, run), config=config.loading)
    num_images = len(images.pool) if stream is None else stream.num_images
    config = fitted(asked, num_images)
    stage = Stage(
        name="pretrain",
        config=config,
        settings=settings_of(config),
        fingerprints={"data": images.fingerprint, "init": fingerprint_of(config, run)},
        runtime=runtime,
        group=group,
        title=title,
        quiet=quiet,
    )
    return run_stage(stage, lambda: _prepare(stage, config, asked, run, images, stream))


def _prepare(
    stage: Stage,
    config: PretrainConfig[Any],
    asked: PretrainConfig[Any],
    run: Run | None,
    dataset: Dataset,
    stream: Stream | None,
) -> Prepared:
    runtime, name = stage.runtime, name_of(config.method)
    backbone, provenance = initial_backbone(config, dataset, run)
    dataset = matched(dataset, run, config.loading)
    # The backbone is initialised by now: methods copy it.
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
    pretraining = _Pretraining(
        stage=stage,
        config=config,
        name=name,
        method=method,
        backbone=backbone,
        provenance=provenance,
        run=run,
        dataset=dataset,
        loader=loader,
        is_stream=stream is not None,
    )
    num_images = len(dataset.pool) if stream is None else stream.num_images
    start = "" if config.init == "scratch" else f"{label_of(config.init)}+"
    place = f"{start}{name}-{config.backbone.name.replace('/', '-')}-{data_label(config.data)}-seed{config.seed}"
    return Prepared(
        output=config.output or Path(f"runs/pretrain-{place}"),
        introduction=(
            f"{augmentations.introduce(dataset, config)}{_adjustments(asked, config, num_images)}\n"
            f"pretraining {backbone.spec.label} from {one_line(config.init)} with {name}: {num_images} images, "
            f"{config.epochs} epochs, {config.epochs * loader.steps_per_epoch} steps of {config.batch_size} images; "
            f"{runtime.describe()}"
        ),
        work=pretraining.work,
        describe=_describe,
    )


def _adjustments(asked: PretrainConfig[Any], config: PretrainConfig[Any], num_images: int) -> str:
    """List the settings that the method adjusted to the number of images."""
    changed = [
        f"\n{field.name}: {after} instead of {before}, for {num_images} images."
        for field in fields(asked.method)
        if (before := getattr(asked.method, field.name)) != (after := getattr(config.method, field.name))
    ]
    return "".join(changed)


@dataclass(frozen=True, kw_only=True)
class _Pretraining:
    """A method with its backbone and its batches."""

    stage: Stage
    config: PretrainConfig[Any]
    name: str
    """Of the method."""
    method: Objective
    backbone: Backbone
    provenance: dict[str, Any]
    """Origin of the initial weights."""
    run: Run | None
    """Run that `init` names."""
    dataset: Dataset
    loader: Batches
    is_stream: bool

    def work(self, folder: RunFolder, tracker: Tracker) -> dict[str, Any]:
        """Train, measure and export."""
        config, runtime, entry = self.config, self.stage.runtime, METHODS[self.name]
        if runtime.is_main:
            views, size = entry.views(config.method), self.backbone.spec.image_size
            monitoring.draw_views(folder.path / "views.png", views, self.dataset, size=size, seed=config.seed)
        alarm = monitoring.alarm(
            self.name,
            entry,
            batch_size=config.batch_size,
            warmup_steps=config.optimizer.warmup_steps,
            runtime=runtime,
        )

        def evaluate() -> dict[str, float]:
            if runtime.is_main:
                picture = folder.path / "reconstructions.png"
                monitoring.draw_reconstructions(
                    picture, self.name, entry, self.method, self.backbone, self.dataset, runtime
                )
            return monitoring.measure(self.backbone, self.dataset, runtime)

        is_labelled = monitoring.is_labelled(self.dataset)
        watched = Watched(metric="knn_accuracy", higher_is_better=True) if is_labelled else None
        cost = train(
            self.method,
            parameter_groups(
                self.method,
                learning_rate=config.optimizer.learning_rate,
                weight_decay=config.optimizer.weight_decay,
                undecayed=self.method.undecayed() | {f"backbone.{name}" for name in self.backbone.undecayed()},
            ),
            self.loader,
            plan=TrainingPlan(phase=self.name, epochs=config.epochs, seed=config.seed, optimizer=config.optimizer),
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
            "num_parameters": sum(parameter.numel() for parameter in self.backbone.parameters()),
            **evaluate(),
            "collapsed": alarm.collapsed,
        }
        tracker.summarize({name: value for name, value in result.items() if isinstance(value, (int, float))})
        if runtime.is_main:
            self._export(folder.path / "backbone", cost)
        return result

    def _export(self, folder: Path, cost: Summary) -> None:
        dataset = self.dataset
        provenance = {
            "method": self.name,
            "init": self.provenance,
            "settings": self.stage.settings,
            "data_fingerprint": dataset.fingerprint,
            "images_seen": cost.images_seen,
            "environment": environment(self.stage.runtime),
        }
        # The images of a stream are not recorded.
        contents = None if self.is_stream or dataset.contents is None else dataset.contents[dataset.pool.numpy()]
        seen = seen_after(self.run, contents)
        pretrained.export(self.backbone, folder, provenance, images=kept(dataset), seen=seen)


def _describe(result: dict[str, Any], output: Path, runtime: Runtime) -> None:
    knn = f", kNN accuracy on validation {result['knn_accuracy']:.1%}" if "knn_accuracy" in result else ""
    runtime.say(
        f"{output}: {result['steps']} steps in {result['seconds']:.0f} s{knn}, effective rank "
        f"{result['effective_rank']:.1f}; backbone in {result['backbone']}"
    )


def main(arguments: Sequence[str], program: str = "ssl-transfer pretrain") -> None:
    """Run `pretrain METHOD [flags]`; the --config file may name the method as `method: {name: ...}`."""
    usage = f"usage: {program} METHOD [--help] [flags]\n\nPretrain a backbone on images without labels. Methods:"
    summaries = {key: entry.summary for key, entry in METHODS.items()}
    name, images, settings, rest = take_method(arguments, usage, summaries)
    entry, default = method_named(name), pretrain_config(name, images)
    kind: Any = PretrainConfig[entry.config]  # type: ignore[name-defined]
    note = f"The backbone auto is {entry.backbone.name}, or that of the run that --init names."
    config = configuration.parse(
        kind, settings, rest, program=f"{program} {name}", default=default, note=note, extra=[AUGMENTATION]
    )
    pretrain(config)
