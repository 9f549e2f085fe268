"""The transfer stage, which every arm goes through: any initialisation, a new head, and the phases of the plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data import sources, splits
from ..engine import config as configuration
from ..engine import runtime as runtimes
from ..engine.checkpoint import save_array
from ..engine.errors import InputError
from ..engine.folder import RunFolder
from ..engine.gradients import check_accumulation
from ..engine.randomness import sample_keys, seed_from
from ..engine.tracking import Tracker, drop_after
from ..evaluation.metrics import class_logits, classification
from ..models.backbones import Backbone
from ..models.heads import Head
from ..objectives.supervised import Supervised
from . import augmentation as augmentations
from .initial import Initial, fingerprint_of, initial_backbone, is_run, label_of, seen_after
from .matching import matched
from .phases import Training, calibrate, find_rate, fitted, measure_start, smallest_batch
from .plan import TransferRecipe
from .run import VOLATILE, RunConfig, check_positive, data_label
from .transferred import leave_curves, leave_evaluation, leave_hits, leave_model, leave_rates
from .tune import drop_states, replay, run_plan, summary, tune

CALIBRATION_IMAGES = 256
"""At most so many training images set the scale of the features and a scratch backbone's first statistics."""
PREDICTED = "predicted.npy"
"""In a run's folder: the classes that the chosen model gave the test images, (N,) int32."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig(RunConfig, TransferRecipe, Initial):
    """Train a head on labelled images, and the backbone with it as the plan says, from an initialisation."""

    labels: str = "all"
    """Labelled images per class, a share of each class (0.1 or 10%), or all. Validation holds no more a class."""
    keep_model: bool = True
    """Export the chosen model: its backbone and its head."""
    tune: int = 1
    """Trials of the plan, of which validation chooses one: the plan as it stands, then others whose learning rates and
    weight decay are each within a factor of ten of its own. The cost of the run by as much; 1 tunes nothing."""
    find_rate: bool = False
    """Train nothing: raise the learning rate of the first phase step by step until the loss explodes (Smith 2017), say
    which one it bears, and draw the curve."""


def labelled_images(config: TransferConfig, dataset: sources.Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """The training and validation images of this budget and seed: equal seeds draw the same images in every arm."""
    if not len(dataset.splits["train"]) or not len(dataset.splits["test"]):
        raise InputError(f"--data {config.data}: has no labelled training or test images, which transfer needs.")
    return budgeted(config.labels, config.seed, dataset)


def budgeted(budget: str, seed: int, dataset: sources.Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Training and validation images of a data set, the latter no more than the budget allows."""
    asked = splits.parse_budget(budget)
    labels, classes = dataset.labels, dataset.classes
    train = splits.budget(dataset.splits["train"], labels, classes, per_class=asked, seed=seed, stream=splits.LABELED)
    # Of a share, validation holds at most as many as training took, whatever its own size.
    most = torch.bincount(labels[train], minlength=len(classes)).tolist() if isinstance(asked, float) else asked
    validation = splits.budget(
        dataset.splits["validation"], labels, classes, per_class=most, seed=seed, stream=splits.VALIDATION
    )
    return train, validation


def check_processes(budget: str, labelled: torch.Tensor, runtime: runtimes.Runtime) -> None:
    """Raise InputError where a process would have no labelled image."""
    if len(labelled) < runtime.num_processes:
        raise InputError(
            f"--labels {budget}: {len(labelled)} labelled images for {runtime.num_processes} processes. "
            "Launch fewer processes, or ask for more labels."
        )


def transfer(
    config: TransferConfig,
    *,
    runtime: runtimes.Runtime | None = None,
    dataset: sources.Dataset | None = None,
    group: str = "transfer",
    title: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Run it, or go on with it, or return the result of the finished run.

    Validation chooses between the phases, by accuracy and among equals by log-loss; then the test images are read,
    once, for all.

    Args:
        config: see its fields.
        runtime: shared with other stages of one process; by default a new one.
        dataset: already loaded images of `config.data`; by default they are loaded.
        group: wandb's group.
        title: wandb's name of the run; by default that of its folder.
        quiet: say nothing but the progress bar, for whoever runs many.

    Returns:
        `chosen` (a phase's name), `num_train`, `num_validation`, `num_parameters`, and `phases`: for each its
        `validation` and `test` metrics and its cost. With `tune` also `tuned` (`tune.Tuned.report`); the phases are
        then those of the chosen trial.
    """
    check_positive(tune=config.tune)
    if config.find_rate and config.tune > 1:
        raise InputError(f"--tune {config.tune} would be ignored: --find-rate trains nothing. Leave one out.")
    config = replace(config, labels=splits.budget_name(config.labels), image_size=config.size)
    runtime = runtime or runtimes.start(config.mixed_precision)
    dataset = dataset or sources.load(config.data, image_size=config.size, config=config.loading)
    backbone, provenance = initial_backbone(config, dataset)
    if is_run(config.init):
        dataset = matched(dataset, backbone.spec, Path(config.init), config.loading)
    torch.manual_seed(seed_from(config.seed, 1))
    backbone, head = fitted(config, backbone, len(dataset.classes))
    labelled, validation = labelled_images(config, dataset)
    check_processes(config.labels, labelled, runtime)
    batch_size = min(config.batch_size, len(labelled)) // runtime.num_processes * runtime.num_processes
    smallest_batch(config, batch_size, runtime.num_processes)
    phases = config.phases(len(labelled) // batch_size)
    training = make_training(
        config, config, dataset, backbone, head, labelled, validation, batch_size, runtime, quiet=quiet
    )
    check_accumulation(training.objective.eval(), config.optimizer.accumulate, runtime)
    settings = configuration.to_dict(config)
    output = config.output or Path(
        f"runs/transfer-{label_of(config.init)}-{backbone.spec.name.replace('/', '-')}-{data_label(config.data)}"
        f"-{config.labels}{config.plan_label}-seed{config.seed}"
    )
    if config.find_rate:
        found_rate = find_rate(training, phases[0], seed=seed_from(config.seed, 2, 0))
        return leave_rates(training, phases[0], output.with_name(f"{output.name}-rates"), found_rate)
    identity = {"data": dataset.fingerprint, "init": fingerprint_of(config)}
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
        named_so = {"group": group, "job_type": "transfer", "title": title}
        tracker = Tracker(folder.metrics, config.tracking, runtime, settings=settings, **named_so)
        if not (folder.checkpoints / f"{phases[0].name}.pt").is_file():
            if runtime.is_main:
                drop_after(folder.metrics, phases[0].name, -1)
            place = {"phase": phases[0].name, "epoch": 0, "step": 0, "split": "validation"}
            tracker.log({**place, **measure_start(training)})
        tuned = None
        if config.tune > 1:
            tuned = tune(training, phases, config.tune, folder=folder.path / "trials")
            if runtime.is_main:
                replay(tuned, tracker, folder.metrics)
            trained = tuned.trained
        else:
            kept = folder.checkpoints if config.keep_model else None
            trained = run_plan(training, phases, tracker=tracker, metrics=folder.metrics, states=kept)
        found, chosen = trained.found, trained.preferred
        logits: dict[str, torch.Tensor] = {}
        for name, state in trained.weights.items():
            training.objective.load_state_dict(state)
            logits[name] = training.logits(dataset.splits["test"])
            found[name]["test"] = classification(logits[name], dataset.labels[dataset.splits["test"]])
        result = {
            "chosen": chosen,
            "num_train": len(labelled),
            "num_validation": len(validation),
            "num_parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            "phases": found,
            **({} if tuned is None else {"tuned": tuned.report}),
        }
        if runtime.is_main:
            save_array(output / PREDICTED, class_logits(logits[chosen]).argmax(dim=1).numpy().astype(np.int32))
            drop_after(folder.metrics, "chosen", -1)
        tracker.log({"phase": "chosen", "split": "test", **found[chosen]["test"]})
        # As in the summary of a comparison: a phase's metrics are those on the test images.
        named = {**found, "chosen": found[chosen]}
        tracker.summarize(
            {f"{phase}/{metric}": value for phase, one in named.items() for metric, value in one["test"].items()}
        )
        tracker.close()
        if runtime.is_main:
            leave_hits(output, logits[chosen], dataset.labels[dataset.splits["test"]])
        if config.keep_model and runtime.is_main:
            training.objective.load_state_dict(trained.weights[chosen])
            origin = {"init": provenance, "settings": settings, "data_fingerprint": dataset.fingerprint}
            contents = None if dataset.contents is None else dataset.contents[labelled.numpy()]
            leave_model(training, output, config.head, origin, seen=seen_after(config, contents))
            held = {
                "validation": (dataset, validation, training.logits(validation)),
                "test": (dataset, dataset.splits["test"], logits[chosen]),
            }
            leave_evaluation(output, dataset.classes, held)
            key = {
                "arm": Path(config.init).name,
                "backbone": backbone.spec.label,
                "labels": config.labels,
                "seed": config.seed,
            }
            leave_curves(output, key, result)
        folder.finish(result)
        if tuned is not None and not config.keep_model:
            drop_states(tuned.place, training)
        if not quiet:
            _describe(result, output, runtime)
        return result


def make_training(
    config: TransferRecipe,
    initial: Initial,
    dataset: sources.Dataset,
    backbone: Backbone,
    head: Head,
    labelled: torch.Tensor,
    validation: torch.Tensor,
    batch_size: int,
    runtime: runtimes.Runtime,
    *,
    quiet: bool,
) -> Training:
    """A new head on the backbone, calibrated, and all that the phases share."""
    objective = Supervised(
        backbone,
        head,
        augment=config.augment,
        num_classes=len(dataset.classes),
        label_smoothing=config.label_smoothing,
        mixup=config.mixup,
        cutmix=config.cutmix,
        class_weights=_class_weights(config, dataset, labelled),
        keep_statistics=config.batch_norm == "frozen",
    ).to(runtime.device)
    training = Training(
        objective=objective,
        recipe=config,
        dataset=dataset,
        labelled=labelled,
        validation=validation,
        batch_size=batch_size,
        seed=initial.seed,
        runtime=runtime,
        quiet=quiet,
    )
    sample = labelled[:: max(1, len(labelled) // CALIBRATION_IMAGES)]
    images = torch.cat(list(dataset.batches(sample.split(CALIBRATION_IMAGES), runtime.device)))
    keys = sample_keys(initial.seed, 0, sample).to(runtime.device)
    calibrate(training, images, keys, scratch=initial.init == "scratch")
    return training


def _class_weights(config: TransferRecipe, dataset: sources.Dataset, labelled: torch.Tensor) -> torch.Tensor | None:
    """(K,) float32: the number of images by that of the class and the number of classes, so that their mean is 1."""
    if config.imbalance != "weights":
        return None
    counts = torch.bincount(dataset.labels[labelled], minlength=len(dataset.classes)).float()
    return len(labelled) / (counts * len(counts))


def _describe(result: dict[str, Any], output: Path, runtime: runtimes.Runtime) -> None:
    """Print a run's accuracies."""
    width = max(map(len, result["phases"]))
    for name, phase in result["phases"].items():
        preferred = "  <- preferred by validation" if name == result["chosen"] else ""
        accuracies = [f"{split} {phase[split]['accuracy']:.1%}" for split in ("validation", "test")]
        runtime.say(f"  {name:{width}}  {'  '.join(accuracies)}{preferred}")
    if "tuned" in result:
        runtime.say(f"  {summary(result['tuned'])}")
    runtime.say(f"run folder: {output}")


def main(arguments: Sequence[str], program: str = "ssl-transfer transfer") -> None:
    """`transfer [flags]`."""
    images, settings, rest = augmentations.take(*configuration.take_config(arguments))
    default, note = augmentations.adapted(TransferConfig(), images), augmentations.HELP
    transfer(configuration.parse(TransferConfig, settings, rest, program=program, default=default, note=note))


def for_arm(recipe: TransferRecipe, **settings: Any) -> TransferConfig:
    """A run's configuration from the recipe that all arms share and what is this run's own."""
    return replace(TransferConfig(**settings), **configuration.shallow(recipe))
