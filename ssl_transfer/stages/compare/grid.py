"""Build and run the grid: pretraining runs (arm, pretraining seed) and transfer runs (arm, budget, seed).

Each run has its own folder and is keyed by its settings: a finished one is never repeated, a stopped one resumes.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ssl_transfer.data import sources
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.launch import slurm
from ssl_transfer.engine.launch.jobs import RECORD, Failure, Launcher, Outcome
from ssl_transfer.engine.launch.local import workers
from ssl_transfer.engine.runs.run_folder import OtherRunError, changes, set_aside
from ssl_transfer.engine.runs.seal import has_result
from ssl_transfer.engine.tracking.tracker import TrackingConfig
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.label_budgets import budget_title
from ssl_transfer.evaluation.comparison.tables import run_checks
from ssl_transfer.stages.common.initialization import open_initial_run
from ssl_transfer.stages.pretrain import config as pretraining
from ssl_transfer.stages.pretrain.pretrain import pretrain
from ssl_transfer.stages.transfer.config import for_arm
from ssl_transfer.stages.transfer.transfer import transfer

from .config import Arm, CompareConfig, pretraining_of


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of the grid; a plain value, so that it can be sent to another process."""

    stage: Callable[..., dict[str, Any]]
    config: Any
    group: str
    kind: str
    """Shared by runs that differ in their seed alone."""
    title: str
    """Name in its group, for wandb and for progress lines."""
    after: Path | None = None
    """Folder of the run that it starts from."""
    retry: bool = False
    """Repeat the run where it started from other weights than those that are there now."""

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.config.output

    def elsewhere(self, place: Path, start: Path | None) -> "Job":
        """Copy the run to another folder, with another start, without trackers."""
        own = replace(self.config, output=place, dry_run=False, tracking=TrackingConfig())
        for name in ("init", "teacher") if self.after is not None else ():
            if getattr(own, name, None) == str(self.after):
                own = replace(own, **{name: str(start)})
        return replace(self, config=own, after=start)

    def check(self, result: dict[str, Any]) -> None:
        """Raise InputError if the result or the log holds an impossible number."""
        if self.stage is pretrain:
            run_checks.check_pretraining(self.folder, result)
            return
        run_checks.check_result(self.folder, result)
        run_checks.check_curves(self.folder, write_tables.curves_of({}, self.folder / "metrics.jsonl"))
        dataset = load_once(self.config.data, self.config.image_size, self.config.loading)
        truth = dataset.labels[dataset.splits["test"]].numpy()
        if write_tables.hits_of(self.folder, truth, num_classes=len(dataset.classes)) is None:
            raise InputError(write_tables.without_predictions(self.folder))

    def __call__(self) -> dict[str, Any]:
        """Run in this process."""
        runtime = runtimes.start(self.config.mixed_precision, deterministic=self.config.deterministic)
        dataset = load_once(self.config.data, self.config.image_size, self.config.loading)
        names = {"group": self.group, "title": self.title}
        start = functools.partial(self.stage, self.config, runtime=runtime, dataset=dataset, quiet=True, **names)
        try:
            return start()
        except OtherRunError:
            # It started from other weights, as before its pretraining was repeated, or its records were swapped.
            if not self.retry:
                raise
        if runtime.is_main:
            set_aside(self.folder)
        runtime.wait()
        return start()


_LOADED: dict[str, sources.Dataset] = {}


def load_once(source: str, image_size: int, loading: sources.LoadingConfig) -> sources.Dataset:
    """Load a data set, and keep it for the next job of this process."""
    key = configuration.fingerprint([source, image_size, loading])
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = sources.load(source, image_size=image_size, config=loading)
    return _LOADED[key]


@dataclass(frozen=True, kw_only=True)
class TransferRun:
    """A transfer run of the grid."""

    arm: Arm
    labels: str
    seed: int
    job: Job

    @property
    def key(self) -> dict[str, Any]:
        """Columns of the run in every table."""
        return {"arm": self.arm.name, "backbone": self.arm.label, "labels": self.labels, "seed": self.seed}


@dataclass(frozen=True, kw_only=True)
class FinishedRun(TransferRun):
    """A transfer run that has finished."""

    result: dict[str, Any]
    """Return value of the transfer stage."""


def grid(config: CompareConfig, arms: list[Arm], output: Path) -> tuple[list[Job], list[TransferRun]]:
    """Build the pretraining jobs and the transfer runs."""
    shared = {
        name: getattr(config, name)
        for name in ("data", "image_size", "mixed_precision", "deterministic", "loading", "tracking", "checkpoints")
    }
    group = output.name
    pretrain_jobs, runs = [], []
    for arm in arms:
        place = arm.place
        # The seed of a transfer run decides its pretraining, whatever other seeds there are.
        pretrainings = {seed: pretraining_of(seed, config.pretrain_seeds) for seed in config.seeds}
        for seed in sorted(set(pretrainings.values())) if arm.recipe is not None else ():
            settings = pretraining.PretrainConfig(
                **shared,
                **configuration.shallow(arm.recipe),
                init=arm.init,
                imagenet_weights=arm.weights,
                seed=seed,
                output=output / "pretrain" / f"{place}-seed{seed}",
            )
            kind = f"{arm.name} {arm.label} pretraining"
            pretrain_jobs.append(
                Job(
                    stage=pretrain,
                    config=settings,
                    group=group,
                    kind=kind,
                    title=f"{kind} {seed}",
                    retry=config.retry,
                )
            )
        for labels in config.labels:
            for seed in config.seeds:
                own, after = arm.start, None
                if arm.recipe is not None:
                    after = output / "pretrain" / f"{place}-seed{pretrainings[seed]}"
                    own = {"init": str(after)}
                run = for_arm(
                    config.transfer,
                    **shared,
                    **own,
                    labels=labels,
                    seed=seed,
                    keep_model=False,
                    tune=config.tune,
                    output=_transfer_folder(output / "transfer" / place / f"labels-{labels}", seed, after),
                )
                kind = f"{arm.name} {arm.label} {budget_title(labels)}"
                job = Job(
                    stage=transfer,
                    config=run,
                    group=group,
                    kind=kind,
                    title=f"{kind} seed {seed}",
                    after=after,
                    retry=config.retry,
                )
                runs.append(TransferRun(arm=arm, labels=labels, seed=seed, job=job))
    return pretrain_jobs, runs


def _transfer_folder(parent: Path, seed: int, start: Path | None) -> Path:
    """Return the folder of a transfer run; with another pretraining than an earlier start's, one of its own."""
    usual = parent / f"seed{seed}"
    stored = usual / "config.yaml"
    if start is None or not stored.is_file():
        return usual
    held = _settings_in(stored)
    # A comparison may have been moved with its runs, so the names are compared.
    is_same = held is None or Path(str(held.get("init"))).name == start.name
    return usual if is_same else parent / f"seed{seed}-{start.name.rpartition('-')[2].replace('seed', 'pretraining')}"


def finished_runs(runs: Sequence[TransferRun], outcomes: Mapping[Path, Outcome]) -> list[FinishedRun]:
    """Pair the transfer runs that have finished with their results."""
    return [
        FinishedRun(arm=run.arm, labels=run.labels, seed=run.seed, job=run.job, result=outcome)
        for run in runs
        if not isinstance(outcome := outcomes[run.job.folder], Failure)
    ]


def failed_methods(pretrain_jobs: Sequence[Job]) -> list[str]:
    """List the methods of which a pretraining failed and none has finished."""
    names = [(job.folder, pretraining.name_of(job.config.method)) for job in pretrain_jobs]
    finished = {name for folder, name in names if has_result(folder)}
    failed = {name for folder, name in names if (folder / RECORD).is_file()}
    return sorted(failed - finished)


def set_changed_aside(pretrain_jobs: Sequence[Job], num_images: int) -> None:
    """Move failed pretrainings aside whose settings were changed, as after a non-finite loss: they start over."""
    for job in pretrain_jobs:
        stored = job.folder / "config.yaml"
        if (job.folder / RECORD).is_file() and stored.is_file() and not has_result(job.folder):
            config = pretraining.resolved(job.config, open_initial_run(job.config))
            now = pretraining.settings_of(pretraining.fitted(config, num_images))
            before = _settings_in(stored)
            if before is not None and changes(before, now, pretraining.FREE):
                set_aside(job.folder)


def _settings_in(stored: Path) -> dict[str, Any] | None:
    """Read the settings of a run; None where they are damaged, which `check_runs` refuses or moves aside."""
    try:
        held = configuration.load(stored.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return held if isinstance(held, dict) else None


def launcher(config: CompareConfig, output: Path, runtime: runtimes.Runtime) -> AbstractContextManager[Launcher]:
    """Open the launcher of the grid, for a `with` block: this machine, or a cluster."""
    if config.launcher == "slurm":
        return nullcontext(slurm.Cluster(config.slurm, output / "slurm", runtime))
    return workers(config.jobs, runtime)


def failures_of(outcomes: Mapping[Path, Outcome]) -> list[dict[str, Any]]:
    """List failed runs: `folder`, `lines` (its last), `held_back` (number of runs that would have started from it).

    The outcomes are those of all runs, by folder.
    """
    missing = {folder: outcome for folder, outcome in outcomes.items() if isinstance(outcome, Failure)}
    held_back = Counter(failure.after for failure in missing.values())
    return [
        {"folder": str(folder), "lines": list(failure.lines), "held_back": held_back[folder]}
        for folder, failure in missing.items()
        if failure.after is None
    ]


def listed(failures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the lines of `failures_of`: each folder with its last lines, and the remedy."""
    parts = [f"{counted(len(failures), 'run')} failed:"]
    for failure in failures:
        held_back = failure["held_back"]
        note = f" ({counted(held_back, 'run')} that would have gone on from it not begun)" if held_back else ""
        parts += [f"{failure['folder']}{note}", *(f"    {line}" for line in failure["lines"])]
    remedy = "The same command with --retry runs them again; what has finished stays."
    if any(Path(failure["folder"]).parent.name == "pretrain" for failure in failures):
        remedy += " With --retry the settings of a method that failed may be others (--METHOD.optimizer.clip-norm 1)."
    return [*parts, remedy]
