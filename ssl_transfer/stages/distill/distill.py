"""Distil a run's model into a small student, on labelled images and on the pool.

Distillation is a transfer with another loss: the same plan, the same choice by validation, the same export.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.data import sources
from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.printable import one_line
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.engine.training.gradients import check_accumulation
from ssl_transfer.evaluation.features.extract import class_scores_of
from ssl_transfer.evaluation.predictions.metrics import classification
from ssl_transfer.models.backbones import Backbone
from ssl_transfer.models.classifier import Classifier
from ssl_transfer.stages.common import augmentation_flag as augmentations
from ssl_transfer.stages.common.checkpoint_data import matched
from ssl_transfer.stages.common.command_line import parse_for_images
from ssl_transfer.stages.common.initialization import (
    fingerprint_of,
    initial_backbone,
    label_of,
    open_initial_run,
    seen_after,
)
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.common.stage_template import VOLATILE_WEIGHTS, Stage, runtime_for
from ssl_transfer.stages.transfer.config import check_tuning
from ssl_transfer.stages.transfer.phases import Training, smallest_batch
from ssl_transfer.stages.transfer.setup import fitted, labelled_images, make_training
from ssl_transfer.stages.transfer.train_and_test import TrainPlan, train_plan

from .config import DistillConfig, decided
from .teacher_batches import Lessons, batch_sizes


def distill(
    config: DistillConfig,
    *,
    runtime: Runtime | None = None,
    dataset: Dataset | None = None,
    group: str = "distill",
    title: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a student on a teacher's outputs; resume a stopped run, or return the result of the finished run.

    `dataset` are already loaded images of `config.data`; by default they are loaded. The other arguments are fields of
    `stage_template.Stage`.

    Returns:
        As `transfer.transfer`, with `num_pool` and `teacher`: its metrics of `validation` and `test` and its
        `num_parameters`.

    Raises:
        InputError: a teacher without a head, of other classes, or of images unlike these; a student that is not named.
    """
    check_tuning(config)
    teacher, run = _open_teacher(config), open_initial_run(config)
    config = decided(config, run, teacher).settled()
    runtime = runtime_for(config, runtime)
    stored_for = max(config.image_size or 0, teacher.spec.image_size)
    images = dataset or sources.load(config.data, image_size=stored_for, config=config.loading)
    files = [teacher.backbone_file, *([] if teacher.head_file is None else [teacher.head_file])]
    stage = Stage(
        name="distill",
        config=config,
        settings=configuration.to_dict(config),
        fingerprints={
            "data": images.fingerprint,
            "init": fingerprint_of(config, run),
            "teacher": "-".join(file.fingerprint for file in files),
        },
        volatile=(*VOLATILE_WEIGHTS, "teacher"),
        runtime=runtime,
        group=group,
        title=title,
        quiet=quiet,
    )
    return train_plan(stage, lambda: _make(stage, config, run, teacher, images), search_rate=config.find_rate)


def _make(stage: Stage, config: DistillConfig, run: Run | None, teacher: Run, dataset: Dataset) -> TrainPlan:
    runtime = stage.runtime
    teacher_backbone = teacher.load_backbone()
    dataset = matched(dataset, teacher, config.loading)
    remedy = "Give a teacher of the classes of --data, or data with the classes of the teacher."
    classifier = teacher.load_classifier(teacher_backbone, dataset.classes, remedy=remedy).to(runtime.device)
    backbone, provenance = initial_backbone(config, dataset, run)
    dataset = _matched_with_both(config, dataset, run, teacher)
    torch.manual_seed(seed_from(config.seed, 1))
    backbone, head = fitted(config, backbone, len(dataset.classes))
    labelled = labelled_images(config, dataset)
    pool = dataset.pool if config.pool else labelled.train[:0]
    sizes = batch_sizes(
        config.batch_size,
        config.pool_share if config.pool else 0.0,
        num_labelled=len(labelled.train),
        num_pool=len(pool),
        num_processes=runtime.num_processes,
    )
    smallest_batch(config, sum(sizes), runtime.num_processes)
    training = make_training(config, dataset, backbone, head, labelled, sizes[0], runtime, quiet=stage.quiet)
    lessons = Lessons(training, classifier, config.distillation, pool=pool, sizes=sizes, fixed_views=config.fixed_views)
    training = replace(training, around=lessons)
    check_accumulation(training.learner.eval(), config.optimizer.accumulate, runtime)
    label = backbone.spec.label
    return TrainPlan(
        config=config,
        training=training,
        phases=config.phases(lessons.batches.steps_per_epoch),
        output=config.output or _default_output(config, backbone),
        introduction=_introduce(config, training, teacher, sizes, pool),
        provenance={"init": provenance, "teacher": teacher.provenance},
        seen=_seen(run, teacher, dataset, torch.cat([labelled.train, pool])),
        key={
            "arm": f"distilled from {teacher.path.name}",
            "backbone": label,
            "labels": config.labels,
            "seed": config.seed,
        },
        num_trials=config.tune,
        keep_model=config.keep_model,
        measure_more=lambda: {"num_pool": len(pool), "teacher": _measure(classifier, training)},
    )


def _open_teacher(config: DistillConfig) -> Run:
    if not config.teacher:
        raise InputError("--teacher: which run? Give the folder of a finished `transfer` or `distill`.")
    teacher = Run(Path(config.teacher))
    if not teacher.has_head:
        raise InputError(
            f"--teacher {teacher.path}: holds a backbone without a trained head, which knows no classes. Give the "
            f"folder of a transfer run, as `ssl-transfer transfer --init {teacher.path}` leaves it."
        )
    return teacher


def _matched_with_both(config: DistillConfig, dataset: Dataset, run: Run | None, teacher: Run) -> Dataset:
    """Match the images with the student's initialisation; they are matched with the teacher already."""
    found = matched(dataset, run, config.loading)
    if found.value_range != dataset.value_range:
        raise InputError(
            f"--init {config.init} takes values of {found.value_range} and --teacher {teacher.path} of "
            f"{dataset.value_range} for 0 to 1, so they cannot see the same images. Take a student that starts "
            "elsewhere."
        )
    return found


def _default_output(config: DistillConfig, backbone: Backbone) -> Path:
    name = f"distill-{label_of(config.teacher)}-{backbone.spec.name.replace('/', '-')}-{data_label(config.data)}"
    return Path(f"runs/{name}-{config.labels}{'-pool' if config.pool else ''}-seed{config.seed}")


def _introduce(config: DistillConfig, training: Training, teacher: Run, sizes: tuple[int, int], pool: Tensor) -> str:
    both = f" ({sizes[0]} labelled and {sizes[1]} of {len(pool)} of the pool in a batch)" if config.pool else ""
    student = training.objective.backbone.spec.label
    return (
        f"{augmentations.introduce(training.dataset, config)}\n{one_line(teacher.path)} ({teacher.spec.label}) teaches "
        f"{student} from {one_line(config.init)}: {len(training.labelled)} labelled images{both}, "
        f"{len(training.validation)} for validation; {training.runtime.describe()}"
    )


def _seen(run: Run | None, teacher: Run, dataset: Dataset, indices: Tensor) -> np.ndarray | None:
    """Join the training images of the student, before and now, with the teacher's; None where unknown."""
    contents = None if dataset.contents is None else dataset.contents[indices.numpy()]
    own = seen_after(run, contents)
    return None if own is None or teacher.seen is None else np.concatenate([own, teacher.seen])


def _measure(classifier: Classifier, training: Training) -> dict[str, Any]:
    """Measure the teacher on the same images."""
    dataset, found = training.dataset, dict[str, Any]()
    for name, indices in (("validation", training.validation), ("test", dataset.splits["test"])):
        logits = class_scores_of(classifier, dataset, indices, training.runtime)
        found[name] = classification(logits, dataset.labels[indices])
    return {**found, "num_parameters": sum(parameter.numel() for parameter in classifier.backbone.parameters())}


def main(arguments: Sequence[str], program: str = "ssl-transfer distill") -> None:
    """Run `distill --teacher RUN --student NAME [flags]`."""
    distill(parse_for_images(DistillConfig(), arguments, program))
