"""Compare initialisations: every arm through the same transfer stage, over label budgets and seeds, with intervals.

The missing runs of the grid are run, then tables and report are written.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.data.split import splits
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.errors import FailedRunsError, InputError
from ssl_transfer.engine.launch.jobs import Failure, Outcome
from ssl_transfer.engine.printable import one_line
from ssl_transfer.engine.redaction import redacted_all
from ssl_transfer.engine.runs.run_folder import RunFolder, check_held
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.results import Cell, Results, Row, chosen_accuracy
from ssl_transfer.evaluation.comparison.tables import run_checks
from ssl_transfer.evaluation.comparison.tables.description_file import DESCRIPTION_FILE, sealed
from ssl_transfer.evaluation.comparison.tables.table_files import checksums_of
from ssl_transfer.stages.common import augmentation_flag as augmentations
from ssl_transfer.stages.common import dry_run
from ssl_transfer.stages.common.command_line import parse_for_images
from ssl_transfer.stages.common.run_config import VOLATILE

from . import finished_arms
from .arms import resolve_arms
from .checks import check_arms, check_launcher, check_settings
from .config import Arm, CompareConfig
from .description import collapses, describe, falls
from .diagnostics import diagnose
from .earlier_tables import EarlierTables, read_earlier
from .grid import (
    FinishedRun,
    Job,
    TransferRun,
    failed_methods,
    failures_of,
    finished_runs,
    grid,
    launcher,
    listed,
    load_once,
    set_changed_aside,
)


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """A checked comparison, before any run."""

    config: CompareConfig
    output: Path
    arms: Sequence[Arm]
    dataset: Dataset
    warnings: Sequence[str]
    pretrain_jobs: Sequence[Job]
    runs: Sequence[TransferRun]

    @property
    def jobs(self) -> list[Job]:
        """List all runs of the grid, each after the one that it starts from."""
        return [*self.pretrain_jobs, *(run.job for run in self.runs)]


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """A comparison that has ended."""

    output: Path
    failures: Sequence[Mapping[str, Any]]
    """Failed runs, as `failures_of` lists them."""
    results: Results | None
    """None on all ranks but 0."""


def compare(config: CompareConfig, *, runtime: runtimes.Runtime | None = None) -> Path:
    """Run the missing runs of the grid, then write the tables and the report.

    Args:
        config: settings of the comparison.
        runtime: shared with other stages of one process; by default a new one.

    Returns:
        The folder with `results.csv`, `summary.csv`, `curves.csv`, `report.md` and `report.html`. Failed runs are
        missing there; `comparison.json` and the report list them.

    Raises:
        FailedRunsError: no transfer run has finished.
    """
    return _compare(config, runtime or _runtime_of(config)).output


def _runtime_of(config: CompareConfig) -> runtimes.Runtime:
    return runtimes.start(config.mixed_precision, deterministic=config.deterministic)


def _compare(config: CompareConfig, runtime: runtimes.Runtime) -> _Compared:
    setup = _checked(config, runtime)
    config, output, jobs = setup.config, setup.output, setup.jobs
    identity, settings = {"data": setup.dataset.fingerprint}, _settings(config)
    volatile = (
        *VOLATILE,
        "arms",
        "labels",
        "seeds",
        "pretrain_seeds",
        "worthwhile",
        "backbones",
        "imagenet_weights",
        "retry",
        "launcher",
        "slurm",
    )
    if config.retry:
        # A run that diverged would diverge again with the same settings.
        volatile += tuple(failed_methods(setup.pretrain_jobs))
    introduction = (
        f"{', '.join(one_line(f'{arm.name} on {arm.label}') for arm in setup.arms)}: "
        f"{len(setup.pretrain_jobs)} pretraining and {len(setup.runs)} transfer runs; {runtime.describe()}"
    )
    if config.dry_run:
        if not config.fresh:
            check_held(output, settings, identity, volatile)
        dry_run.several(output, jobs, introduction, runtime, at_a_time=config.jobs, fresh=config.fresh)
    with RunFolder(output, settings, runtime, identity=identity, fresh=config.fresh, volatile=volatile) as folder:
        if config.retry and runtime.is_main:
            set_changed_aside(setup.pretrain_jobs, len(setup.dataset.pool))
        runtime.wait()
        runtime.say(*introduction.split("\n"))
        with launcher(config, output, runtime) as runner:
            outcomes = runner.run(jobs, retry=config.retry)
        failures = failures_of(outcomes)
        # Rank 0 replaces the tables, and alone reads the earlier ones.
        earlier = read_earlier(output) if runtime.is_main else EarlierTables()
        if not finished_runs(setup.runs, outcomes):
            raise FailedRunsError("No transfer run has finished, so there are no tables.", *listed(failures))
        if failures:
            if runtime.is_main and (lost := _lost(setup, outcomes, earlier)):
                kept = f"{output}: the tables stay as they are: {counted(lost, 'run')} in them failed at this start."
                raise FailedRunsError(kept, *listed(failures))
            runtime.warn(f"{counted(len(failures), 'run')} of {len(jobs)} failed; the tables hold what finished.")
        if left_out := earlier.runs - {tuple(run.key.values()) for run in setup.runs}:
            runtime.warn(
                f"{counted(len(left_out), 'run')} of the earlier tables have an arm, a budget or a seed that this "
                "command does not name. The new tables leave them out; their folders stay."
            )
        results = _write(setup, outcomes, earlier, folder, runtime) if runtime.is_main else None
        runtime.wait()
    return _Compared(output=output, failures=failures, results=results)


def _lost(setup: _Setup, outcomes: Mapping[Path, Outcome], earlier: EarlierTables) -> int:
    """Count the failed transfer runs that the tables of an earlier start hold, or may hold."""
    keys = [tuple(run.key.values()) for run in setup.runs if isinstance(outcomes[run.job.folder], Failure)]
    return len(keys) if earlier.is_damaged else sum(key in earlier.runs for key in keys)


def _checked(config: CompareConfig, runtime: runtimes.Runtime) -> _Setup:
    """Check the settings, resolve the arms, load and check the images, and build the grid."""
    # Folders and tables use one name of a budget, however it was written.
    budgets = tuple(splits.budget_name(text) for text in config.labels)
    config = replace(config, labels=budgets, transfer=config.transfer.with_plan())
    check_settings(config)
    check_launcher(config, runtime)
    arms = resolve_arms(config)
    dataset = load_once(config.data, config.image_size, config.loading)
    introduction = augmentations.introduce(dataset, config.transfer, *(arm.recipe for arm in arms))
    runtime.say(*introduction.split("\n"))
    warnings = check_arms(config, arms, dataset)
    for warning in warnings:
        runtime.say(f"warning: {warning}")
    output = config.output or Path(f"runs/compare-{data_label(config.data)}")
    pretrain_jobs, runs = grid(config, arms, output)
    return _Setup(
        config=config,
        output=output,
        arms=arms,
        dataset=dataset,
        warnings=warnings,
        pretrain_jobs=pretrain_jobs,
        runs=runs,
    )


def _write(
    setup: _Setup,
    outcomes: Mapping[Path, Outcome],
    earlier: EarlierTables,
    record: RunFolder,
    runtime: runtimes.Runtime,
) -> Results:
    """Write tables, description and report of the finished runs, and publish them where trackers are on."""
    from ssl_transfer.reports.comparison import report
    from ssl_transfer.stages import sync

    finished = finished_runs(setup.runs, outcomes)
    pretrained = {
        job.folder: outcome for job in setup.pretrain_jobs if isinstance(outcome := outcomes[job.folder], dict)
    }
    found = _collect(setup, finished, pretrained, earlier)
    description = describe(setup.output, setup.config, setup.arms, setup.dataset, finished)
    description["warnings"] = [*setup.warnings, *collapses(pretrained), *falls(finished), *found.warnings]
    description["failures"] = failures_of(outcomes)
    # As the file gives it back, so that a report that is drawn again is the same.
    description = json.loads(json.dumps(redacted_all(description)))
    results = Results(found.rows, hits=found.hits, curves=found.curves, description=description, folder=setup.output)
    # All is computed before the first table is replaced.
    diagnosed = diagnose(finished, setup.dataset, runtime)
    write_tables.write(setup.output, results)
    for name, table in diagnosed.items():
        write_tables.write_lines(setup.output / name, table.columns, table.lines)
    # Last: its checksums are those of the tables, and a killed comparison has none or those of its older tables.
    record.write(DESCRIPTION_FILE, sealed(description, checksums_of(setup.output)))
    report.draw(results)
    if setup.config.tracking.wandb != "off":
        sync.publish_comparison(setup.config.tracking, results)
    return results


@dataclass(frozen=True, kw_only=True)
class _Collected:
    """Content of the tables."""

    rows: Sequence[Row]
    curves: Sequence[Mapping[str, Any]]
    hits: Mapping[Cell, Mapping[int, np.ndarray]]
    warnings: Sequence[str]
    """Of measurements that are left out."""


def _collect(
    setup: _Setup, finished: Sequence[FinishedRun], pretrained: Mapping[Path, dict[str, Any]], earlier: EarlierTables
) -> _Collected:
    """Collect rows, curves and correct test images of the finished runs, with the costs of their pretraining.

    Raises:
        InputError: a run holds an impossible number, or has lost its predictions. No table has been written.
    """
    costs = {arm.init: finished_arms.cost_of(arm.run) for arm in setup.arms if arm.run is not None}
    for arm in setup.arms:
        if arm.run is not None and (cost := costs[arm.init]) is not None:
            run_checks.check_pretraining(arm.run.folder, cost, is_arm=True)
    for folder, cost in pretrained.items():
        run_checks.check_pretraining(folder, cost)
    truth = setup.dataset.labels[setup.dataset.splits["test"]].numpy()
    rows: list[Row] = []
    curves: list[dict[str, Any]] = []
    hits: dict[Cell, dict[int, np.ndarray]] = {}
    warnings: list[str] = []
    for run in finished:
        job = run.job
        run_checks.check_result(job.folder, run.result)
        cost = costs.get(run.arm.init) if job.after is None else pretrained[job.after]
        rows += write_tables.rows_of(run.key, run.result, cost)
        lines, dropped = run_checks.check_curves(
            job.folder, write_tables.curves_of(run.key, job.folder / "metrics.jsonl", run.result.get("path"))
        )
        curves += lines
        warnings += dropped
        correct = write_tables.hits_of(job.folder, truth, num_classes=len(setup.dataset.classes))
        cell = chosen_accuracy(run.arm.name, run.arm.label, run.labels)
        if correct is not None:
            hits.setdefault(cell, {})[run.seed] = correct
        elif run.seed in earlier.hits.get(cell, {}):
            raise InputError(write_tables.without_predictions(job.folder))
    return _Collected(rows=rows, curves=curves, hits=hits, warnings=warnings)


def _settings(config: CompareConfig) -> dict[str, Any]:
    settings = configuration.to_dict(config)
    recipes = settings.pop("recipes")
    return {**settings, **recipes}


def main(arguments: Sequence[str], program: str = "ssl-transfer compare") -> None:
    """Run `compare [flags]`."""
    run(parse_for_images(CompareConfig(), arguments, program))


def run(config: CompareConfig) -> None:
    """Compare, then print the table, the verdict and the path of the report.

    Raises:
        FailedRunsError: a run failed; the tables hold the finished ones.
    """
    from ssl_transfer.reports.comparison import report

    found = _compare(config, _runtime_of(config))
    if found.results is not None:
        report.show(found.results)
    if found.failures:
        raise FailedRunsError(*listed(found.failures))
