"""The transfer stage, which every arm goes through: any initialisation, a new head, and the phases of the plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import sources, splits
from ..data.augment import augment
from ..data.loaders import Loader
from ..engine import checkpoint
from ..engine import config as configuration
from ..engine import runtime as runtimes
from ..engine.errors import InputError
from ..engine.folder import RunFolder, environment
from ..engine.loop import Summary, train
from ..engine.optim import parameter_groups
from ..engine.randomness import sample_keys, seed_from
from ..engine.tracking import Tracker, drop_after
from ..evaluation.features import over_images
from ..evaluation.metrics import classification
from ..models import backbones, initialize
from ..models.heads import LinearHead
from ..objectives.supervised import Supervised
from . import augmentation as augmentations
from .matching import matched
from .plan import Phase, TransferRecipe
from .run import IMAGE_SIZE, VOLATILE, RunConfig, data_label

WORDS = ("scratch", "imagenet")
"""Initialisations that are no run."""
CALIBRATION_IMAGES = 256
"""At most so many training images set the scale of the features and a scratch backbone's first statistics."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig(RunConfig, TransferRecipe):
    """Train a head, then everything, from an initialisation on labelled images."""

    init: str = "scratch"
    """Where the backbone's weights come from: scratch, imagenet, or the folder of a pretraining run."""
    image_size: int | None = None
    """Pixels a side of what the models see. Default: 64, or those of the run that --init names."""
    labels: str = "all"
    """Labelled images per class, a share of each class (0.1 or 10%), or all. Validation holds no more a class."""
    backbone: backbones.BackboneConfig = field(default_factory=backbones.BackboneConfig)
    """The network for scratch and imagenet; a run's folder names its own."""
    imagenet_weights: Path | None = None
    """A local file with ImageNet weights in timm's names, instead of timm's hub."""
    seed: int = 0
    """Seed of the labelled images, of weights, order and augmentation."""
    keep_model: bool = True
    """Export the chosen model: its backbone and its head."""


def initial_backbone(config: TransferConfig, dataset: sources.Dataset) -> tuple[backbones.Backbone, dict[str, Any]]:
    """The backbone that `init` names, fit for these images, and its provenance."""
    if config.init not in WORDS:
        if config.backbone != backbones.BackboneConfig():
            raise InputError(f"--backbone would be ignored: --init {config.init} names its own. Leave it out.")
        return initialize.from_checkpoint(Path(config.init))
    if config.imagenet_weights is not None and config.init != "imagenet":
        raise InputError(f"--imagenet-weights would be ignored with --init {config.init}.")
    mean, std = dataset.statistics()
    spec = backbones.make_spec(
        config.backbone,
        in_chans=dataset.num_channels,
        image_size=config.image_size or IMAGE_SIZE,
        mean=mean,
        std=std,
        value_range=dataset.value_range,
    )
    if config.init == "imagenet":
        return initialize.imagenet(spec, weights=config.imagenet_weights), {"init": "imagenet"}
    return initialize.scratch(spec, seed=seed_from(config.seed, 0)), {"init": "scratch"}


def with_image_size(config: TransferConfig) -> TransferConfig:
    """The same with its image size decided.

    Raises:
        InputError: another one than the run's that `init` names.
    """
    if config.init in WORDS:
        return replace(config, image_size=config.image_size or IMAGE_SIZE)
    size = initialize.image_size_of(Path(config.init))
    if config.image_size not in (None, size):
        raise InputError(f"--image-size {config.image_size}: --init {config.init} takes {size} pixels. Leave it out.")
    return replace(config, image_size=size)


def _fingerprint_of_init(config: TransferConfig) -> str:
    """What tells one initialisation from another, wherever its weights lie."""
    if config.imagenet_weights is not None:
        return checkpoint.file_fingerprint(config.imagenet_weights.expanduser())
    if config.init in WORDS:
        return config.init
    return checkpoint.weights_fingerprint(Path(config.init), "backbone")


def labelled_images(config: TransferConfig, dataset: sources.Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """The training and validation images of this budget and seed: equal seeds draw the same images in every arm."""
    if not len(dataset.splits["train"]) or not len(dataset.splits["test"]):
        raise InputError(f"--data {config.data}: has no labelled training or test images, which transfer needs.")
    asked = splits.parse_budget(config.labels)
    labels, classes, seed = dataset.labels, dataset.classes, config.seed
    train = splits.budget(dataset.splits["train"], labels, classes, per_class=asked, seed=seed, stream=splits.LABELED)
    # Of a share, validation holds at most as many as training took, whatever its own size.
    most = torch.bincount(labels[train], minlength=len(classes)).tolist() if isinstance(asked, float) else asked
    validation = splits.budget(
        dataset.splits["validation"], labels, classes, per_class=most, seed=seed, stream=splits.VALIDATION
    )
    return train, validation


def transfer(
    config: TransferConfig,
    *,
    runtime: runtimes.Runtime | None = None,
    dataset: sources.Dataset | None = None,
    group: str = "transfer",
    quiet: bool = False,
) -> dict[str, Any]:
    """Run it, or go on with it, or return the result of the finished run.

    Validation chooses between the phases, by accuracy and among equals by log-loss; then the test images are read,
    once, for both.

    Args:
        config: see its fields.
        runtime: shared with other stages of one process; by default a new one.
        dataset: already loaded images of `config.data`; by default they are loaded.
        group: wandb's group.
        quiet: say nothing but the progress bar, for whoever runs many.

    Returns:
        `chosen` (a phase's name), `num_train`, `num_validation`, `num_parameters`, and `phases`: for each its
        `validation` and `test` metrics and its cost.
    """
    config = with_image_size(replace(config, labels=splits.budget_name(config.labels)))
    runtime = runtime or runtimes.start(config.mixed_precision)
    dataset = dataset or sources.load(config.data, image_size=config.image_size or IMAGE_SIZE, config=config.loading)
    backbone, provenance = initial_backbone(config, dataset)
    if config.init not in WORDS:
        dataset = matched(dataset, backbone.spec, Path(config.init), config.loading)
    labelled, validation = labelled_images(config, dataset)
    if len(labelled) < runtime.num_processes:
        raise InputError(
            f"--labels {config.labels}: {len(labelled)} labelled images for {runtime.num_processes} processes. "
            "Launch fewer processes, or ask for more labels."
        )
    batch_size = min(config.batch_size, len(labelled)) // runtime.num_processes * runtime.num_processes
    loader = Loader(dataset, labelled, batch_size=batch_size, seed=config.seed, runtime=runtime, labelled=True)
    plan = config.plan(loader.steps_per_epoch)
    settings = configuration.to_dict(config)
    output = config.output or Path(
        f"runs/transfer-{Path(config.init).name}-{backbone.spec.name}-{data_label(config.data)}-{config.labels}-seed{config.seed}"
    )
    identity = {"data": dataset.fingerprint, "init": _fingerprint_of_init(config)}
    # The same weights may lie elsewhere.
    volatile = (*VOLATILE, "init", "imagenet_weights")
    with RunFolder(output, settings, runtime, identity=identity, fresh=config.fresh, volatile=volatile) as folder:
        if folder.result is not None:
            if not quiet:
                runtime.say(f"{output}: finished before; nothing to do (--fresh starts over)")
                _describe(folder.result, output, runtime)
            return folder.result
        if not quiet:
            runtime.say(augmentations.introduce(dataset, config))
            runtime.say(
                f"transfer of {backbone.spec.label} from {config.init}: {len(labelled)} labelled images, "
                f"{len(validation)} for validation; {runtime.describe()}"
            )
        torch.manual_seed(seed_from(config.seed, 1))
        head = LinearHead(backbone.num_features, len(dataset.classes))
        objective = Supervised(backbone, head, augment=config.augment, label_smoothing=config.label_smoothing)
        objective.to(runtime.device)
        _calibrate(objective, config, dataset, labelled, runtime)

        def measure(indices: torch.Tensor) -> dict[str, float]:
            logits = over_images(objective.logits, dataset, indices, runtime, "evaluating")
            return classification(logits, dataset.labels[indices])

        tracker = Tracker(folder.metrics, config.tracking, runtime, settings=settings, group=group, job_type="transfer")
        phases: dict[str, dict[str, Any]] = {}
        weights: dict[str, dict[str, torch.Tensor]] = {}
        for number, phase in enumerate(plan):
            cost = _train_phase(
                objective,
                phase,
                config,
                loader,
                seed=seed_from(config.seed, 2, number),
                runtime=runtime,
                tracker=tracker,
                folder=folder,
                evaluate=lambda: measure(validation),
            )
            weights[phase.name] = {name: value.clone() for name, value in objective.state_dict().items()}
            phases[phase.name] = {
                "validation": measure(validation),
                "seconds": cost.seconds,
                "images_seen": cost.images_seen,
                "peak_memory_mb": cost.peak_memory_mb,
            }
        chosen = max(phases, key=lambda name: _preference(phases[name]["validation"]))
        for name, state in weights.items():
            objective.load_state_dict(state)
            phases[name]["test"] = measure(dataset.splits["test"])
        result = {
            "chosen": chosen,
            "num_train": len(labelled),
            "num_validation": len(validation),
            "num_parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            "phases": phases,
        }
        if runtime.is_main:
            drop_after(folder.metrics, "chosen", -1)
        tracker.log({"phase": "chosen", "split": "test", **phases[chosen]["test"]})
        tracker.close()
        if config.keep_model and runtime.is_main:
            objective.load_state_dict(weights[chosen])
            origin = {"init": provenance, "settings": settings, "data_fingerprint": dataset.fingerprint}
            provenance = {**origin, "environment": environment(runtime)}
            initialize.export(backbone, output / "backbone", provenance, seen=_seen(config, dataset, labelled))
            checkpoint.save_weights(output / "head", "head", head.state_dict(), {"classes": list(dataset.classes)})
        folder.finish(result)
        if not quiet:
            _describe(result, output, runtime)
        return result


def _train_phase(
    objective: Supervised,
    phase: Phase,
    config: TransferConfig,
    loader: Loader,
    *,
    seed: int,
    runtime: runtimes.Runtime,
    tracker: Tracker,
    folder: RunFolder,
    evaluate: Callable[[], dict[str, float]],
) -> Summary:
    """One phase, with an optimiser and a schedule of its own."""
    backbone = objective.backbone
    objective.set_trained(phase.trained)
    return train(
        objective,
        parameter_groups(
            objective,
            learning_rate=phase.learning_rate,
            weight_decay=config.optimizer.weight_decay,
            undecayed=[f"backbone.{name}" for name in backbone.undecayed()],
            layers={f"backbone.{name}": depth for name, depth in backbone.layers().items()},
            layer_decay=phase.layer_decay,
        ),
        loader,
        optimizer=config.optimizer,
        epochs=phase.epochs,
        seed=seed,
        phase=phase.name,
        runtime=runtime,
        tracker=tracker,
        state_path=folder.checkpoints / f"{phase.name}.pt" if config.keep_model else None,
        metrics_path=folder.metrics,
        evaluate=evaluate,
        evaluate_every=max(1, phase.epochs // 10),
    )


def _seen(config: TransferConfig, dataset: sources.Dataset, labelled: torch.Tensor) -> np.ndarray | None:
    """The images that this run's weights were trained on, here or before; None where that is not known."""
    before = np.empty(0, np.uint64) if config.init in WORDS else initialize.seen_images(Path(config.init))
    if before is None or dataset.contents is None:
        return None
    return np.concatenate([before, dataset.contents[labelled.numpy()]])


def _preference(validation: dict[str, float]) -> tuple[float, float]:
    """What makes one phase preferable to another: accuracy, and among equals the log-loss."""
    return validation["accuracy"], -validation["log_loss"]


def _describe(result: dict[str, Any], output: Path, runtime: runtimes.Runtime) -> None:
    """Print a run's accuracies."""
    for name, phase in result["phases"].items():
        preferred = "  <- preferred by validation" if name == result["chosen"] else ""
        accuracies = [f"{split} {phase[split]['accuracy']:.1%}" for split in ("validation", "test")]
        runtime.say(f"  {name:9} {'  '.join(accuracies)}{preferred}")
    runtime.say(f"run folder: {output}")


def _calibrate(
    objective: Supervised,
    config: TransferConfig,
    dataset: sources.Dataset,
    labelled: torch.Tensor,
    runtime: runtimes.Runtime,
) -> None:
    """Set the scale of the head's input; first, on a scratch backbone, BatchNorm's statistics.

    A network with random weights has statistics of nothing (mean 0, variance 1), with which its frozen features are
    useless and its head starts fine-tuning on another scale than it was trained on. Measured on the digits, scratch
    gains by it (docs/decisions.md). Weights that were trained bring their own statistics.
    """
    backbone = objective.backbone
    sample = labelled[:: max(1, len(labelled) // CALIBRATION_IMAGES)]
    keys = sample_keys(config.seed, 0, sample).to(runtime.device)
    images = torch.cat(list(dataset.batches(sample.split(CALIBRATION_IMAGES), runtime.device)))
    views = augment(images, keys, view=1, size=objective.backbone.spec.image_size, config=config.augment)
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        if config.init == "scratch" and norms:
            momenta = [norm.momentum for norm in norms]
            for norm in norms:
                norm.momentum = 1.0
            backbone.train()
            backbone(views)
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
        backbone.eval()
        objective.head.calibrate(backbone(views))


def main(arguments: Sequence[str], program: str = "ssl-transfer transfer") -> None:
    """`transfer [flags]`."""
    images, settings, rest = augmentations.take(*configuration.take_config(arguments))
    default, note = augmentations.adapted(TransferConfig(), images), augmentations.HELP
    transfer(configuration.parse(TransferConfig, settings, rest, program=program, default=default, note=note))


def for_arm(recipe: TransferRecipe, **settings: Any) -> TransferConfig:
    """A run's configuration from the recipe that all arms share and what is this run's own."""
    return replace(TransferConfig(**settings), **configuration.shallow(recipe))
