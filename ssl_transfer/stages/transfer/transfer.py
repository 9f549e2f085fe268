"""Transfer: any initialisation, a new head, and the phases of the plan. Every arm of a comparison runs this stage."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ssl_transfer.data import sources
from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.data.split import splits
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.printable import one_line
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.engine.training.gradients import check_accumulation
from ssl_transfer.objectives.supervised import batch_norms
from ssl_transfer.stages.common import augmentation_flag as augmentations
from ssl_transfer.stages.common.checkpoint_data import matched
from ssl_transfer.stages.common.command_line import parse_for_images
from ssl_transfer.stages.common.initialization import (
    fingerprint_of,
    image_size_of,
    initial_backbone,
    label_of,
    open_initial_run,
    seen_after,
)
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.common.stage_template import Stage, runtime_for

from .batch_norm import batch_norm_of
from .config import TransferConfig, check_tuning
from .setup import batch_size_of, fitted, labelled_images, make_training
from .train_and_test import TrainPlan, train_plan

KEPT = (
    "BatchNorm keeps the statistics of the initial weights, as they come from other images "
    "(--batch-norm train moves them)"
)
"""Line of the introduction where `--batch-norm auto` freezes them."""


def transfer(
    config: TransferConfig,
    *,
    runtime: Runtime | None = None,
    dataset: Dataset | None = None,
    group: str = "transfer",
    title: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a head, then fine-tune as the plan says; resume a stopped run, or return the result of the finished run.

    `dataset` are already loaded images of `config.data`; by default they are loaded. The other arguments are fields of
    `stage_template.Stage`.

    Returns:
        `chosen` (a phase's name), `num_train`, `num_validation`, `num_parameters`, and `phases`: for each its
        `validation` and `test` metrics and its cost. With several plans also `path`: the phases that lead to the chosen
        one. With `tune` also `tuned` (`tune.Tuned.report`); the phases are
        then those of the chosen trial.
    """
    check_tuning(config)
    run = open_initial_run(config)
    config = replace(config, labels=splits.budget_name(config.labels), image_size=image_size_of(config, run))
    runtime = runtime_for(config, runtime)
    images = dataset or sources.load(config.data, image_size=image_size_of(config, run), config=config.loading)
    asked, config = config.batch_norm, config.settled(batch_norm_of(config, run, images))
    stage = Stage(
        name="transfer",
        config=config,
        settings=configuration.to_dict(config),
        fingerprints={"data": images.fingerprint, "init": fingerprint_of(config, run)},
        runtime=runtime,
        group=group,
        title=title,
        quiet=quiet,
    )
    is_kept = asked == "auto" and config.batch_norm == "frozen"
    return train_plan(stage, lambda: _make(stage, config, run, images, is_kept=is_kept), search_rate=config.find_rate)


def _make(stage: Stage, config: TransferConfig, run: Run | None, dataset: Dataset, *, is_kept: bool) -> TrainPlan:
    runtime = stage.runtime
    backbone, provenance = initial_backbone(config, dataset, run)
    dataset = matched(dataset, run, config.loading)
    torch.manual_seed(seed_from(config.seed, 1))
    backbone, head = fitted(config, backbone, len(dataset.classes))
    labelled = labelled_images(config, dataset)
    batch_size = batch_size_of(config, config.labels, len(labelled.train), runtime.num_processes)
    training = make_training(config, dataset, backbone, head, labelled, batch_size, runtime, quiet=stage.quiet)
    check_accumulation(training.objective.eval(), config.optimizer.accumulate, runtime)
    contents = None if dataset.contents is None else dataset.contents[labelled.train.numpy()]
    spec, start = backbone.spec, label_of(config.init)
    batch_norm = f"\n{KEPT}" if is_kept and batch_norms(backbone) else ""
    name = f"transfer-{start}-{spec.name.replace('/', '-')}-{data_label(config.data)}"
    return TrainPlan(
        config=config,
        training=training,
        phases=config.phases(len(labelled.train) // batch_size, has_batch_norm=bool(batch_norms(backbone))),
        output=config.output or Path(f"runs/{name}-{config.labels}{config.plan_label}-seed{config.seed}"),
        introduction=(
            f"{augmentations.introduce(dataset, config)}\ntransfer of {spec.label} from {one_line(config.init)}: "
            f"{len(labelled.train)} labelled images, {len(labelled.validation)} for validation; {runtime.describe()}"
            f"{batch_norm}"
        ),
        provenance={"init": provenance},
        seen=seen_after(run, contents),
        key={"arm": Path(config.init).name, "backbone": spec.label, "labels": config.labels, "seed": config.seed},
        num_trials=config.tune,
        keep_model=config.keep_model,
    )


def main(arguments: Sequence[str], program: str = "ssl-transfer transfer") -> None:
    """Run `transfer [flags]`."""
    transfer(parse_for_images(TransferConfig(), arguments, program))
