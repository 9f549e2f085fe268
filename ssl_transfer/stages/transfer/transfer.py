"""The transfer stage, which every arm goes through: any initialisation, a new head, and the phases of the plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ssl_transfer.data import sources
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.data.split import splits
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.engine.training.gradients import check_accumulation
from ssl_transfer.stages.common import augmentation_flag as augmentations
from ssl_transfer.stages.common import run_stage
from ssl_transfer.stages.common.checkpoint_data import matched
from ssl_transfer.stages.common.command_line import parse_for_images
from ssl_transfer.stages.common.initialization import fingerprint_of, initial_backbone, is_run, label_of, seen_after
from ssl_transfer.stages.common.run_config import RunConfig, check_positive
from ssl_transfer.stages.transfer import train_plan

from .outputs import leave_rates
from .phases import find_rate
from .plan import TransferRecipe
from .setup import PlannedConfig, batch_size_of, fitted, make_training


@dataclass(frozen=True, kw_only=True)
class TransferConfig(RunConfig, PlannedConfig):
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
    check_tuning(config)
    config = replace(config, labels=splits.budget_name(config.labels), image_size=config.size)
    runtime = runtime or runtimes.start(config.mixed_precision, deterministic=config.deterministic)
    dataset = dataset or sources.load(config.data, image_size=config.size, config=config.loading)
    settings = configuration.to_dict(config)
    fingerprints = {"data": dataset.fingerprint, "init": fingerprint_of(config)}
    if quiet and (result := run_stage.finished(config, settings, fingerprints, runtime)) is not None:
        return result
    backbone, provenance = initial_backbone(config, dataset)
    if is_run(config.init):
        dataset = matched(dataset, backbone.spec, Path(config.init), config.loading)
    torch.manual_seed(seed_from(config.seed, 1))
    backbone, head = fitted(config, backbone, len(dataset.classes))
    labelled, validation = labelled_images(config, dataset)
    batch_size = batch_size_of(config, config.labels, len(labelled), runtime.num_processes)
    phases = config.phases(len(labelled) // batch_size)
    training = make_training(config, dataset, backbone, head, labelled, validation, batch_size, runtime, quiet=quiet)
    check_accumulation(training.objective.eval(), config.optimizer.accumulate, runtime)
    output = config.output or Path(
        f"runs/transfer-{label_of(config.init)}-{backbone.spec.name.replace('/', '-')}-{data_label(config.data)}"
        f"-{config.labels}{config.plan_label}-seed{config.seed}"
    )
    if config.find_rate:
        found_rate = find_rate(training, phases[0], seed=seed_from(config.seed, 2, 0))
        return leave_rates(training, phases[0], output.with_name(f"{output.name}-rates"), found_rate)
    introduction = (
        f"{augmentations.introduce(dataset, config)}\ntransfer of {backbone.spec.label} from {config.init}: "
        f"{len(labelled)} labelled images, {len(validation)} for validation; {runtime.describe()}"
    )
    identity = run_stage.Identity(
        stage="transfer",
        config=config,
        settings=settings,
        output=output,
        fingerprints=fingerprints,
        introduction=introduction,
        group=group,
        title=title,
    )
    contents = None if dataset.contents is None else dataset.contents[labelled.numpy()]
    leaving = train_plan.Leaving(
        head=config.head,
        provenance={"init": provenance},
        seen=seen_after(config, contents),
        key={
            "arm": Path(config.init).name,
            "backbone": backbone.spec.label,
            "labels": config.labels,
            "seed": config.seed,
        },
        keep_model=config.keep_model,
    )
    return train_plan.run(identity, training, phases, leaving, num_trials=config.tune)


def check_tuning(config: TransferConfig) -> None:
    """Raise InputError for a number of trials that cannot be, or that a search of the rate would ignore."""
    check_positive(tune=config.tune)
    if config.find_rate and config.tune > 1:
        raise InputError(f"--tune {config.tune} would be ignored: --find-rate trains nothing. Leave one out.")
    if config.find_rate and config.dry_run:
        raise InputError("--dry-run would be ignored: --find-rate trains nothing. Leave one out.")


def main(arguments: Sequence[str], program: str = "ssl-transfer transfer") -> None:
    """`transfer [flags]`."""
    transfer(parse_for_images(TransferConfig(), arguments, program))


def for_arm(recipe: TransferRecipe, **settings: Any) -> TransferConfig:
    """A run's configuration from the recipe that all arms share and what is this run's own."""
    return replace(TransferConfig(**settings), **configuration.shallow(recipe))
