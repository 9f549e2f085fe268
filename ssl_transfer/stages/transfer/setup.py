"""Set up a transfer: labelled images, backbone as the plan needs it, new head, calibration."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.split import splits
from ssl_transfer.data.transforms.augment import augment
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.models.backbones import Backbone, first_blocks
from ssl_transfer.models.heads import Head, features_for, make_head
from ssl_transfer.models.trainable import select
from ssl_transfer.objectives.supervised import Supervised, SupervisedConfig, batch_norms

from .config import PlannedConfig, TransferConfig
from .phases import Training, smallest_batch
from .plans.recipe import TransferRecipe

CALIBRATION_IMAGES = 256
"""Most training images that set the scale of the features and a scratch backbone's first statistics."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labelled images of a run, as indices into its data set."""

    train: Tensor
    """(N,) int64."""
    validation: Tensor
    """(M,) int64."""


def labelled_images(config: TransferConfig, dataset: Dataset) -> Labelled:
    """Draw the labelled images of this budget and seed: equal seeds draw the same images in every arm.

    Raises:
        InputError: the data has no labelled training or test images.
    """
    if not len(dataset.splits["train"]) or not len(dataset.splits["test"]):
        raise InputError(f"--data {config.data}: has no labelled training or test images, which transfer needs.")
    return budgeted(config.labels, config.seed, dataset)


def budgeted(budget: str, seed: int, dataset: Dataset) -> Labelled:
    """Draw training and validation images; of each class validation gets at most the budget."""
    asked = splits.parse_budget(budget)
    labels, classes = dataset.labels, dataset.classes
    train = splits.budget(dataset.splits["train"], labels, classes, per_class=asked, seed=seed, stream=splits.LABELED)
    # Of a share, validation holds at most as many images a class as training took.
    most = torch.bincount(labels[train], minlength=len(classes)).tolist() if isinstance(asked, float) else asked
    validation = splits.budget(
        dataset.splits["validation"], labels, classes, per_class=most, seed=seed, stream=splits.VALIDATION
    )
    return Labelled(train=train, validation=validation)


def fitted(recipe: TransferRecipe, backbone: Backbone, num_classes: int) -> tuple[Backbone, Head]:
    """Cut the backbone as the plan needs it, and make a new head.

    Raises:
        InputError: a phase names a layer that this backbone does not have; the head does not fit it, or the classes.
    """
    if recipe.keep_blocks is not None:
        backbone = first_blocks(backbone, recipe.keep_blocks)
    for phase in recipe.phases(steps_per_epoch=1):
        select(backbone, phase.trained)
    return backbone, make_head(recipe.head, backbone, num_classes)


def batch_size_of(recipe: TransferRecipe, budget: str, num_labelled: int, num_processes: int) -> int:
    """Return the images of a step over all processes: at most all images, equally many on each process.

    Raises:
        InputError: a process would have none, or too few at a time for the head.
    """
    if num_labelled < num_processes:
        raise InputError(
            f"--labels {budget}: {num_labelled} labelled images for {num_processes} processes. "
            "Launch fewer processes, or ask for more labels."
        )
    batch_size = min(recipe.batch_size, num_labelled) // num_processes * num_processes
    smallest_batch(recipe, batch_size, num_processes)
    return batch_size


def make_training(
    config: PlannedConfig,
    dataset: Dataset,
    backbone: Backbone,
    head: Head,
    labelled: Labelled,
    batch_size: int,
    runtime: Runtime,
    *,
    quiet: bool,
) -> Training:
    """Put the head on the backbone, calibrate it, and collect what the phases share."""
    objective = Supervised(
        backbone,
        head,
        SupervisedConfig(
            augment=config.augment,
            label_smoothing=config.label_smoothing,
            mixup=config.mixup,
            cutmix=config.cutmix,
        ),
        num_classes=len(dataset.classes),
        class_weights=_class_weights(config, dataset, labelled.train),
    ).to(runtime.device)
    training = Training(
        objective=objective,
        recipe=config,
        dataset=dataset,
        labelled=labelled.train,
        validation=labelled.validation,
        batch_size=batch_size,
        seed=config.seed,
        runtime=runtime,
        quiet=quiet,
        checkpoints=config.checkpoints,
    )
    sample = labelled.train[:: max(1, len(labelled.train) // CALIBRATION_IMAGES)]
    images = torch.cat(list(dataset.batches(sample.split(CALIBRATION_IMAGES), runtime.device)))
    keys = sample_keys(config.seed, 0, sample).to(runtime.device)
    calibrate(training, images, keys, scratch=config.init == "scratch")
    return training


def _class_weights(recipe: TransferRecipe, dataset: Dataset, labelled: Tensor) -> Tensor | None:
    """Compute class weights (K,) float32: images / (images of the class * classes), of mean 1 over the images."""
    if recipe.imbalance != "weights":
        return None
    counts = torch.bincount(dataset.labels[labelled], minlength=len(dataset.classes)).float()
    return len(labelled) / (counts * len(counts))


def calibrate(training: Training, images: Tensor, keys: Tensor, *, scratch: bool) -> None:
    """Set the scale of the head's input from a sample; first, on a scratch backbone, BatchNorm's statistics.

    The statistics of random weights (mean 0, variance 1) make frozen features useless, and start fine-tuning on another
    scale than the head was trained on. On the digits, scratch gains by it (docs/decisions.md). Trained weights have
    statistics of their own.

    Args:
        training: of the run.
        images: (N, C, H, W) stored images on the device.
        keys: (N,) int64, their random keys.
        scratch: the weights are random.
    """
    objective = training.objective
    backbone = objective.backbone
    views = augment(images, keys, view=1, size=backbone.spec.image_size, config=training.recipe.augment)
    if scratch:
        settle_statistics(backbone, views)
    backbone.eval()
    with torch.no_grad():
        objective.head.calibrate(features_for(objective.head, backbone, views))


@torch.no_grad()
def settle_statistics(backbone: Backbone, views: Tensor) -> None:
    """Give BatchNorm the statistics of these images, (N, C, S, S) on the device. Without BatchNorm nothing happens."""
    norms = batch_norms(backbone)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    backbone.train()
    backbone(views)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
