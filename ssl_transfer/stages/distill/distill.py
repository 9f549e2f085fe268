"""The distillation stage: a small student learns of a run's model, on labelled images and on those nobody labelled.

It is a transfer run with another loss: the same plan, the same choice by validation, the same folder at its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.data import sources
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.data.split import splits
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import weight_files
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.engine.training.gradients import check_accumulation
from ssl_transfer.evaluation.features.extract import class_scores_of
from ssl_transfer.evaluation.predictions.metrics import classification
from ssl_transfer.models import pretrained
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.models.classifier import Classifier, has_head, load_classifier
from ssl_transfer.objectives.distillation import DistillationConfig
from ssl_transfer.stages.common import augmentation_flag as augmentations
from ssl_transfer.stages.common import run_stage
from ssl_transfer.stages.common.checkpoint_data import matched
from ssl_transfer.stages.common.command_line import parse_for_images
from ssl_transfer.stages.common.initialization import (
    fingerprint_of,
    held,
    initial_backbone,
    is_run,
    label_of,
    seen_after,
)
from ssl_transfer.stages.transfer import train_plan
from ssl_transfer.stages.transfer.outputs import leave_rates
from ssl_transfer.stages.transfer.phases import Training, find_rate, smallest_batch
from ssl_transfer.stages.transfer.setup import fitted, make_training
from ssl_transfer.stages.transfer.transfer import TransferConfig, check_tuning, labelled_images

from .teacher_batches import Lessons, batch_sizes

POOL_SHARE = 0.75
MOST_VIEWS = 10_000
"""Of an image, whose answers are all kept."""
VOLATILE_WEIGHTS = (*run_stage.VOLATILE_WEIGHTS, "teacher")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(TransferConfig):
    """Train a small student on labelled images and on what a teacher, the model of a finished run, says of images."""

    teacher: str = ""
    """The folder of a run with a trained head: of transfer, adapt or distill."""
    student: str = ""
    """The student's network, as --backbone.name. Not needed where --init names a run or timm:NAME."""
    plan: tuple[str, ...] = ("full",)
    """As in transfer; by default everything at once."""
    layer_decay: float = 1.0
    """As in transfer; by default every layer at the same rate."""
    pool: bool = False
    """Learn what the teacher says of all images of the pool: unlabelled and training ones, never validation or test."""
    pool_share: float = POOL_SHARE
    """With --pool the share of each batch that comes from the pool, above 0 and below 1; the rest has labels, but never
    more than there are. An epoch is then a pass over the pool."""
    fixed_views: int | None = None
    """So many fixed augmented views of each image, which the epochs take in turns, and of which the teacher is asked
    only once; 0: of images without augmentation. None: new views in each epoch, and the teacher is asked each time."""
    distillation: DistillationConfig = DistillationConfig()
    """What is learnt of the teacher."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.pool_share < 1.0:
            raise InputError(f"pool_share {self.pool_share}: above 0 and below 1.")
        if not self.pool and self.pool_share != POOL_SHARE:
            raise InputError(f"pool_share {self.pool_share} would be ignored without --pool: give both, or neither.")
        if self.frozen_views is not None:
            raise InputError(
                f"frozen_views {self.frozen_views}: in distillation the teacher is frozen throughout. Give "
                f"--fixed-views {self.frozen_views}."
            )
        if self.fixed_views is not None and not 0 <= self.fixed_views <= MOST_VIEWS:
            raise InputError(f"fixed_views {self.fixed_views}: 0 or more, and at most {MOST_VIEWS:,}.")
        mixed = [name for name in ("mixup", "cutmix") if getattr(self, name)]
        if mixed and (self.pool or self.fixed_views is not None or self.distillation.teacher_view == "plain"):
            raise InputError(
                f"{' and '.join(mixed)} make new images of a labelled batch, which the teacher has to see: not with "
                "--pool, --fixed-views or distillation.teacher-view plain."
            )


def distill(
    config: DistillConfig,
    *,
    runtime: runtimes.Runtime | None = None,
    dataset: sources.Dataset | None = None,
    group: str = "distill",
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
        As `transfer.transfer`, with `num_pool` and `teacher`: its metrics of `validation` and `test` and its
        `num_parameters`.

    Raises:
        InputError: a teacher without a head, of other classes, or of images unlike these; a student that is not named.
    """
    check_tuning(config)
    path = _teacher_of(config)
    size_of_teacher = pretrained.image_size_of(path)
    config = _decided(config, size_of_teacher)
    runtime = runtime or runtimes.start(config.mixed_precision, deterministic=config.deterministic)
    stored_for = max(config.size, size_of_teacher)
    dataset = dataset or sources.load(config.data, image_size=stored_for, config=config.loading)
    settings = configuration.to_dict(config)
    weights = [weight_files.weights_fingerprint(path, part) for part in ("backbone", "head")]
    fingerprints = {"data": dataset.fingerprint, "init": fingerprint_of(config), "teacher": "-".join(weights)}
    if quiet and (result := run_stage.finished(config, settings, fingerprints, runtime, VOLATILE_WEIGHTS)) is not None:
        return result
    taught_by, origin = pretrained.from_checkpoint(path)
    dataset = matched(dataset, taught_by.spec, path, config.loading)
    remedy = "Give a teacher of the classes of --data, or data with the classes of the teacher."
    classifier = load_classifier(path, taught_by, dataset.classes, remedy=remedy).to(runtime.device)
    backbone, provenance = initial_backbone(config, dataset)
    if is_run(config.init):
        as_taught = dataset.value_range
        dataset = matched(dataset, backbone.spec, Path(config.init), config.loading)
        if dataset.value_range != as_taught:
            raise InputError(
                f"--init {config.init} takes values of {dataset.value_range} and --teacher {path} of {as_taught} for 0 "
                "to 1, so they cannot see the same images. Take a student that starts elsewhere."
            )
    torch.manual_seed(seed_from(config.seed, 1))
    backbone, head = fitted(config, backbone, len(dataset.classes))
    labelled, validation = labelled_images(config, dataset)
    pool = dataset.pool if config.pool else labelled[:0]
    sizes = batch_sizes(
        config.batch_size,
        config.pool_share if config.pool else 0.0,
        num_labelled=len(labelled),
        num_pool=len(pool),
        num_processes=runtime.num_processes,
    )
    smallest_batch(config, sum(sizes), runtime.num_processes)
    training = make_training(config, dataset, backbone, head, labelled, validation, sizes[0], runtime, quiet=quiet)
    lessons = Lessons(training, classifier, config.distillation, pool=pool, sizes=sizes, fixed_views=config.fixed_views)
    training = replace(training, around=lessons)
    check_accumulation(training.learner.eval(), config.optimizer.accumulate, runtime)
    phases = config.phases(lessons.batches.steps_per_epoch)
    output = config.output or Path(
        f"runs/distill-{label_of(config.teacher)}-{backbone.spec.name.replace('/', '-')}-{data_label(config.data)}"
        f"-{config.labels}{'-pool' if config.pool else ''}-seed{config.seed}"
    )
    if config.find_rate:
        found = find_rate(training, phases[0], seed=seed_from(config.seed, 2, 0))
        return leave_rates(training, phases[0], output.with_name(f"{output.name}-rates"), found)
    both = f" ({sizes[0]} labelled and {sizes[1]} of {len(pool)} of the pool in a batch)" if config.pool else ""
    introduction = (
        f"{augmentations.introduce(dataset, config)}\n{path} ({taught_by.spec.label}) teaches {backbone.spec.label} "
        f"from {config.init}: {len(labelled)} labelled images{both}, {len(validation)} for validation; "
        f"{runtime.describe()}"
    )
    identity = run_stage.Identity(
        stage="distill",
        config=config,
        settings=settings,
        output=output,
        fingerprints=fingerprints,
        volatile=VOLATILE_WEIGHTS,
        introduction=introduction,
        group=group,
        title=title,
    )
    leaving = train_plan.Leaving(
        head=config.head,
        provenance={"init": provenance, "teacher": origin},
        seen=_seen(config, path, dataset, torch.cat([labelled, pool])),
        key={
            "arm": f"distilled from {path.name}",
            "backbone": backbone.spec.label,
            "labels": config.labels,
            "seed": config.seed,
        },
        keep_model=config.keep_model,
    )

    def measured() -> dict[str, Any]:
        return {"num_pool": len(pool), "teacher": _measure(classifier, training)}

    return train_plan.run(identity, training, phases, leaving, num_trials=config.tune, more=measured)


def _teacher_of(config: DistillConfig) -> Path:
    """The teacher's folder.

    Raises:
        InputError: none, or one without a trained head.
    """
    if not config.teacher:
        raise InputError("--teacher: which run? Give the folder of a finished `transfer` or `distill`.")
    path = Path(config.teacher)
    pretrained.spec_of(path)
    if not has_head(path):
        raise InputError(
            f"--teacher {path}: holds a backbone without a trained head, which knows no classes. Give the folder of a "
            f"transfer run, as `ssl-transfer transfer --init {path}` leaves it."
        )
    return path


def _decided(config: DistillConfig, size: int) -> DistillConfig:
    """The configuration with the student's network and, where nothing else says it, the teacher's size of images.

    Raises:
        InputError: no student is named, or two.
    """
    own = config.backbone
    if config.student:
        if own.name not in (BackboneConfig().name, config.student):
            raise InputError(f"--student {config.student} and --backbone.name {own.name}: give one of them.")
        own = replace(own, name=config.student)
        own = held(Path(config.init), own) if is_run(config.init) else own
    elif own == BackboneConfig() and config.init in ("scratch", "imagenet"):
        raise InputError("--student: which network? A small one, as in --student mobilenetv3_small_100.")
    image_size = size if config.image_size is None and not is_run(config.init) else config.image_size
    config = replace(config, backbone=own, labels=splits.budget_name(config.labels), image_size=image_size)
    if (config.mixup or config.cutmix) and config.size != size:
        raise InputError(
            f"mixup and cutmix: the teacher takes images of {size} px and the student of {config.size}, and mixed "
            f"images are made at one size. Give --image-size {size}, or leave them out."
        )
    return replace(config, image_size=config.size)


def _seen(config: DistillConfig, teacher: Path, dataset: sources.Dataset, indices: Tensor) -> np.ndarray | None:
    """The images that the student will know: its own, before and now, and its teacher's."""
    contents = None if dataset.contents is None else dataset.contents[indices.numpy()]
    own, through_teacher = seen_after(config, contents), pretrained.seen_images(teacher)
    return None if own is None or through_teacher is None else np.concatenate([own, through_teacher])


def _measure(classifier: Classifier, training: Training) -> dict[str, Any]:
    """What the teacher is worth on the same images."""
    dataset, found = training.dataset, dict[str, Any]()
    for name, indices in (("validation", training.validation), ("test", dataset.splits["test"])):
        logits = class_scores_of(classifier, dataset, indices, training.runtime)
        found[name] = classification(logits, dataset.labels[indices])
    return {**found, "num_parameters": sum(parameter.numel() for parameter in classifier.backbone.parameters())}


def main(arguments: Sequence[str], program: str = "ssl-transfer distill") -> None:
    """`distill --teacher RUN --student NAME [flags]`."""
    distill(parse_for_images(DistillConfig(), arguments, program))
