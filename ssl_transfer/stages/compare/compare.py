"""Compare initialisations: every arm through the same transfer stage, over label budgets and seeds, with intervals.

What is missing of the grid is run, then the tables and the report are written.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.data import sources
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.data.split import splits
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.errors import FailedRunsError, InputError
from ssl_transfer.engine.launch.jobs import Failure
from ssl_transfer.engine.runs.run_folder import RunFolder, check_held
from ssl_transfer.evaluation.comparison import result_tables
from ssl_transfer.evaluation.comparison.estimates import Cell, Row
from ssl_transfer.models.init_names import TIMM
from ssl_transfer.stages.common import augmentation_flag as augmentations
from ssl_transfer.stages.common import dry_run
from ssl_transfer.stages.common.command_line import parse_for_images
from ssl_transfer.stages.common.initialization import WORDS, Initial, initial_backbone, is_run, open_initial_run
from ssl_transfer.stages.common.run_config import VOLATILE, check_positive
from ssl_transfer.stages.pretrain import config as pretraining
from ssl_transfer.stages.transfer.setup import fitted

from . import diagnostics, finished_arms
from .arms import resolve_arms
from .config import Arm, CompareConfig
from .grid import check_launcher, failed_methods, failures_of, grid, launcher, listed, load_once, set_changed_aside


def check_settings(config: CompareConfig) -> None:
    """Find every bad setting that shows without images: reading them may take long."""
    check_positive(pretrain_seeds=config.pretrain_seeds, tune=config.tune)
    config.transfer.phases(steps_per_epoch=1)
    seeds = " ".join(map(str, config.seeds))
    if not config.labels or not config.seeds:
        raise InputError("--labels and --seeds need at least one value each.")
    for flag, values in (("labels", config.labels), ("seeds", config.seeds)):
        if len(set(values)) < len(values):
            raise InputError(f"--{flag} {' '.join(map(str, values))}: each value only once.")
    if min(config.seeds) < 0:
        raise InputError(f"--seeds {seeds}: 0 or more.")
    if config.pretrain_seeds > len(config.seeds):
        raise InputError(
            f"--pretrain-seeds {config.pretrain_seeds}: more than the {len(config.seeds)} --seeds that would use them."
        )
    turns = {seed % config.pretrain_seeds for seed in config.seeds}
    if len(turns) < config.pretrain_seeds:
        raise InputError(
            f"--pretrain-seeds {config.pretrain_seeds}: seed s takes pretraining s modulo {config.pretrain_seeds}, so "
            f"that --seeds {seeds} use only {len(turns)}. Give seeds in a row, as --seeds "
            f"{' '.join(map(str, range(len(config.seeds))))}, or fewer pretraining seeds."
        )


def check(config: CompareConfig, arms: list[Arm], dataset: sources.Dataset) -> list[str]:
    """Find every other bad setting now: nothing has been trained, and hours may lie ahead. Returns what to warn of."""
    if len(dataset.classes) < 2:
        raise InputError(f"--data {config.data}: comparing needs labelled images of two or more classes.")
    for text in config.labels:
        per_class = splits.parse_budget(text)
        train = dataset.splits["train"]
        splits.budget(train, dataset.labels, dataset.classes, per_class=per_class, seed=0, stream=splits.LABELED)
    warnings = []
    for arm in arms:
        if arm.recipe is not None and arm.recipe.batch_size > len(dataset.pool):
            raise InputError(
                f"--{pretraining.name_of(arm.recipe.method)}.batch-size {arm.recipe.batch_size}: the pool of "
                f"{config.data} has only {len(dataset.pool)} images. Give at most that, as in --batch-size "
                f"{len(dataset.pool)}."
            )
        start = Initial(image_size=config.image_size, **arm.start)
        backbone, _ = initial_backbone(start, dataset, open_initial_run(start))
        if arm.init.startswith(TIMM):
            warnings += _unlike(arm, arms)
        if is_run(arm.init):
            warnings += finished_arms.check_images(arm.init, dataset, config.loading)
        if arm.recipe is not None:
            pretraining.prepare(pretraining.fitted(arm.recipe, len(dataset.pool)), backbone)
        fitted(config.transfer, backbone, len(dataset.classes))
    return warnings


def _unlike(arm: Arm, arms: Sequence[Arm]) -> list[str]:
    """Where weights of timm stand beside the same network with another stem or other arguments."""
    beside = next((one for one in arms if one.backbone.name == arm.backbone.name and one.label != arm.label), None)
    if beside is None:
        return []
    return [
        f"{arm.name} runs as its weights were trained ({arm.label}), beside {beside.name} on {beside.label}: stem and "
        "arguments of --backbone do not reach it."
    ]


def compare(config: CompareConfig, *, runtime: runtimes.Runtime | None = None) -> Path:
    """Run what is missing of the grid, then write the tables and the report.

    Args:
        config: see its fields.
        runtime: shared with other stages of one process; by default a new one.

    Returns:
        The folder with `results.csv`, `summary.csv`, `curves.csv`, `report.md` and `report.html`. Runs that failed are
        missing there; `comparison.json` and the report name them.

    Raises:
        FailedRunsError: no transfer run has finished.
    """
    from ssl_transfer.reports.comparison import report
    from ssl_transfer.stages import sync

    # Folders and tables know a budget by one name, however it was written.
    config = replace(config, labels=tuple(splits.budget_name(text) for text in config.labels))
    runtime = runtime or runtimes.start(config.mixed_precision, deterministic=config.deterministic)
    check_settings(config)
    check_launcher(config, runtime)
    arms = resolve_arms(config)
    dataset = load_once(config.data, config.image_size, config.loading)
    runtime.say(augmentations.introduce(dataset, config.transfer, *(arm.recipe for arm in arms)))
    warnings = check(config, arms, dataset)
    for warning in warnings:
        runtime.say(f"warning: {warning}")
    output = config.output or Path(f"runs/compare-{data_label(config.data)}")
    volatile = (*VOLATILE, "arms", "labels", "seeds", "backbones", "imagenet_weights", "retry", "launcher", "slurm")
    identity = {"data": dataset.fingerprint}
    pretrain_jobs, transfer_jobs = grid(config, arms, output)
    if config.retry:
        # What diverged would diverge again with the same settings.
        volatile += tuple(failed_methods(pretrain_jobs))
    jobs = [*pretrain_jobs, *(job for *_, job in transfer_jobs)]
    introduction = (
        f"{', '.join(f'{arm.name} on {arm.label}' for arm in arms)}: "
        f"{len(pretrain_jobs)} pretraining and {len(transfer_jobs)} transfer runs; {runtime.describe()}"
    )
    if config.dry_run:
        if not config.fresh:
            check_held(output, _settings(config), identity, volatile)
        dry_run.several(output, jobs, introduction, runtime, at_a_time=config.jobs, fresh=config.fresh)
    with RunFolder(
        output, _settings(config), runtime, identity=identity, fresh=config.fresh, volatile=volatile
    ) as folder:
        if config.retry and runtime.is_main:
            set_changed_aside(pretrain_jobs, len(dataset.pool))
        runtime.wait()
        runtime.say(introduction)
        with launcher(config, output, runtime) as runner:
            outcomes = runner.run(jobs, retry=config.retry)
        failures = failures_of(outcomes)
        results = {place: outcome for place, outcome in outcomes.items() if not isinstance(outcome, Failure)}
        finished = [cell for cell in transfer_jobs if cell[-1].folder in results]
        if not finished:
            raise FailedRunsError(f"No transfer run has finished, so there are no tables.\n{listed(failures)}")
        if failures:
            runtime.warn(f"{counted(len(failures), 'run')} of {len(jobs)} failed; the tables hold what finished.")

        if runtime.is_main:
            costs = {arm.init: finished_arms.cost_of(arm.init) for arm in arms if is_run(arm.init)}
            rows: list[Row] = []
            curves: list[dict[str, Any]] = []
            images: dict[str, list[int]] = {}
            hits: dict[Cell, dict[int, np.ndarray]] = {}
            truth = dataset.labels[dataset.splits["test"]].numpy()
            for arm, labels, seed, job in finished:
                key = {"arm": arm.name, "backbone": arm.label, "labels": labels, "seed": seed}
                result = results[job.folder]
                rows += result_tables.rows_of(
                    key, result, costs.get(arm.init) if job.after is None else results[job.after]
                )
                curves += result_tables.curves_of(key, job.folder / "metrics.jsonl")
                for cell, held in result_tables.hits_of(key, job.folder, truth).items():
                    hits.setdefault(cell, {}).update(held)
                images[labels] = [result["num_train"], result["num_validation"]]
            result_tables.write(output, rows, curves, hits)
            transferred = [
                diagnostics.Transferred(
                    arm=arm.name,
                    backbone=arm.label,
                    labels=labels,
                    num_train=results[job.folder]["num_train"],
                    config=job.config,
                )
                for arm, labels, _, job in finished
            ]
            diagnostics.leave(output, transferred, dataset, runtime)
            recipes = {(arm.name, arm.label): found for arm in arms if (found := _recipe_of(arm)) is not None}
            described = diagnostics.describe(output, transferred, recipes)
            description = {**_description(config, arms, dataset, images), **described}
            pretrained = {job.folder: results[job.folder] for job in pretrain_jobs if job.folder in results}
            warnings += _warnings(pretrained)
            folder.write("comparison.json", {**description, "warnings": warnings, "failures": failures})
            report.draw(output)
            if config.tracking.wandb != "off":
                sync.publish_comparison(config.tracking, output)
        runtime.wait()
        return output


def _recipe_of(arm: Arm) -> dict[str, Any] | None:
    """How an arm was pretrained, here or in the run that it is; None where it was not, or that is not known."""
    if arm.recipe is not None:
        return configuration.to_dict(arm.recipe)
    return finished_arms.recipe_of(arm.init) if is_run(arm.init) else None


def _settings(config: CompareConfig) -> dict[str, Any]:
    settings = configuration.to_dict(config)
    recipes = settings.pop("recipes")
    return {**settings, **recipes}


def _description(
    config: CompareConfig, arms: list[Arm], dataset: sources.Dataset, images: dict[str, list[int]]
) -> dict[str, Any]:
    """What the report says about the protocol."""
    return {
        "data": dataset.describe(),
        "source": config.data,
        "image_size": config.image_size,
        "data_fingerprint": dataset.fingerprint,
        "classes": list(dataset.classes),
        "backbones": {arm.label: configuration.to_dict(arm.backbone) for arm in arms},
        "starts": {arm.name: arm.init for arm in arms if arm.init not in WORDS},
        "labels": list(config.labels),
        "images": images,
        "num_classes": len(dataset.classes),
        "num_test": len(dataset.splits["test"]),
        "num_pool": len(dataset.pool),
        "seeds": list(config.seeds),
        "pretrain_seeds": config.pretrain_seeds,
        "epochs": {arm.name: found["epochs"] for arm in arms if (found := _recipe_of(arm)) is not None},
        "plan": configuration.to_dict(config.transfer),
        "tune": config.tune,
    }


def _warnings(pretrained: Mapping[Path, dict[str, Any]]) -> list[str]:
    """What the report says of pretrainings that collapsed; runs of older versions do not know."""
    return [
        f"The representation of {folder.name} collapsed in step {result['collapsed']['step']}: what "
        "transfer made of it says little about the method. The run's metrics.jsonl has the measured values."
        for folder, result in pretrained.items()
        if result.get("collapsed")
    ]


def main(arguments: Sequence[str], program: str = "ssl-transfer compare") -> None:
    """`compare [flags]`."""
    run(parse_for_images(CompareConfig(), arguments, program))


def run(config: CompareConfig) -> None:
    """Compare, then print the table, the answer and where the report lies.

    Raises:
        FailedRunsError: the tables hold what finished.
    """
    from ssl_transfer.reports.comparison import report

    runtime = runtimes.start(config.mixed_precision, deterministic=config.deterministic)
    output = compare(config, runtime=runtime)
    if runtime.is_main:
        report.show(output)
    failures = json.loads((output / "comparison.json").read_text(encoding="utf-8"))["failures"]
    if failures:
        raise FailedRunsError(listed(failures))
