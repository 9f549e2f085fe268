"""The grid of a comparison: pretraining runs (an arm, a pretraining seed) and transfer runs (an arm, a budget, a seed).

Each has a folder of its own and is keyed by its settings: a finished one is never redone, a stopped one goes on.
"""

import re
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
from ssl_transfer.engine.runs.run_folder import changes, held_result, set_aside
from ssl_transfer.engine.tracking.tracker import TrackingConfig
from ssl_transfer.evaluation.comparison.estimates import budget_title
from ssl_transfer.stages.common.initialization import open_initial_run
from ssl_transfer.stages.common.run_config import check_positive
from ssl_transfer.stages.pretrain import config as pretraining
from ssl_transfer.stages.pretrain.pretrain import pretrain
from ssl_transfer.stages.transfer.config import for_arm
from ssl_transfer.stages.transfer.transfer import transfer

from .config import Arm, CompareConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of the grid; a plain value, so that it can go to another process."""

    stage: Callable[..., dict[str, Any]]
    config: Any
    group: str
    title: str
    """What it is called in its group, by wandb and by the lines of its progress."""
    after: Path | None = None
    """The folder of the pretraining that it goes on from."""

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.config.output

    @property
    def kind(self) -> str:
        """What it is, whatever its seed."""
        return re.sub(r"( seed)? \d+$", "", self.title)

    def elsewhere(self, place: Path, start: Path | None) -> "Job":
        """The same run in another folder, going on from another one, not logged anywhere else."""
        own = replace(self.config, output=place, dry_run=False, tracking=TrackingConfig())
        for name in ("init", "teacher") if self.after is not None else ():
            if getattr(own, name, None) == str(self.after):
                own = replace(own, **{name: str(start)})
        return replace(self, config=own, after=start)

    def __call__(self) -> dict[str, Any]:
        """Run it in this process."""
        runtime = runtimes.start(self.config.mixed_precision, deterministic=self.config.deterministic)
        dataset = load_once(self.config.data, self.config.image_size, self.config.loading)
        return self.stage(self.config, runtime=runtime, dataset=dataset, group=self.group, title=self.title, quiet=True)


_LOADED: dict[str, sources.Dataset] = {}


def load_once(source: str, image_size: int, loading: sources.LoadingConfig) -> sources.Dataset:
    """The data set, kept for the next job of this process."""
    key = configuration.fingerprint([source, image_size, loading])
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = sources.load(source, image_size=image_size, config=loading)
    return _LOADED[key]


def grid(config: CompareConfig, arms: list[Arm], output: Path) -> tuple[list[Job], list[tuple[Arm, str, int, Job]]]:
    """The pretraining jobs, and the transfer jobs with the arm, budget and seed of each."""
    shared = {
        name: getattr(config, name)
        for name in ("data", "image_size", "mixed_precision", "deterministic", "loading", "tracking", "checkpoints")
    }
    group = output.name
    pretrain_jobs, transfer_jobs = [], []
    for arm in arms:
        place = arm.place
        # A transfer run's seed says which pretraining it starts from, whatever other seeds there are.
        for seed in sorted({seed % config.pretrain_seeds for seed in config.seeds}) if arm.recipe is not None else ():
            settings = pretraining.PretrainConfig(
                **shared,
                **configuration.shallow(arm.recipe),
                init=arm.init,
                imagenet_weights=arm.weights,
                seed=seed,
                output=output / "pretrain" / f"{place}-seed{seed}",
            )
            title = f"{arm.name} {arm.label} pretraining {seed}"
            pretrain_jobs.append(Job(stage=pretrain, config=settings, group=group, title=title))
        for labels in config.labels:
            for seed in config.seeds:
                own, after = arm.start, None
                if arm.recipe is not None:
                    after = output / "pretrain" / f"{place}-seed{seed % config.pretrain_seeds}"
                    own = {"init": str(after)}
                run = for_arm(
                    config.transfer,
                    **shared,
                    **own,
                    labels=labels,
                    seed=seed,
                    keep_model=False,
                    tune=config.tune,
                    output=output / "transfer" / place / f"labels-{labels}" / f"seed{seed}",
                )
                title = f"{arm.name} {arm.label} {budget_title(labels)} seed {seed}"
                job = Job(stage=transfer, config=run, group=group, title=title, after=after)
                transfer_jobs.append((arm, labels, seed, job))
    return pretrain_jobs, transfer_jobs


def failed_methods(pretrain_jobs: Sequence[Job]) -> list[str]:
    """The methods none of whose pretrainings has finished and one of which failed."""
    names = [(job.folder, pretraining.name_of(job.config.method)) for job in pretrain_jobs]
    finished = {name for folder, name in names if held_result(folder) is not None}
    failed = {name for folder, name in names if (folder / RECORD).is_file()}
    return sorted(failed - finished)


def set_changed_aside(pretrain_jobs: Sequence[Job], num_images: int) -> None:
    """Let failed pretrainings that have other settings now begin anew, as after a loss that was not finite."""
    for job in pretrain_jobs:
        held = job.folder / "config.yaml"
        if (job.folder / RECORD).is_file() and held.is_file() and held_result(job.folder) is None:
            config = pretraining.resolved(job.config, open_initial_run(job.config))
            now = pretraining.settings_of(pretraining.fitted(config, num_images))
            if changes(yaml.safe_load(held.read_text(encoding="utf-8")), now, pretraining.FREE):
                set_aside(job.folder)


def launcher(config: CompareConfig, output: Path, runtime: runtimes.Runtime) -> AbstractContextManager[Launcher]:
    """What runs the grid, for a `with` block: this machine, or a cluster."""
    if config.launcher == "slurm":
        return nullcontext(slurm.Cluster(config.slurm, output / "slurm", runtime))
    return workers(config.jobs, runtime)


def check_launcher(config: CompareConfig, runtime: runtimes.Runtime) -> None:
    """Raise InputError where the runs cannot be run as asked for."""
    check_positive(jobs=config.jobs)
    several = runtime.num_processes > 1
    if several and (config.jobs > 1 or config.launcher == "slurm"):
        raise InputError(
            "--jobs and --launcher slurm run each run in one process; under a launcher with several processes leave "
            "them out."
        )
    if config.launcher == "slurm":
        if config.jobs > 1:
            raise InputError("--jobs is for this machine; with --launcher slurm say --slurm.at-a-time.")
        slurm.check(config.slurm)
    elif config.slurm != slurm.SlurmConfig():
        raise InputError("--slurm settings would be ignored: add --launcher slurm.")


def failures_of(outcomes: Mapping[Path, Outcome]) -> list[dict[str, Any]]:
    """The runs that failed: `folder`, `lines` (the last ones), `held_back` (how many runs would have gone on from it).

    Args:
        outcomes: what became of each run, by its folder.
    """
    missing = {folder: outcome for folder, outcome in outcomes.items() if isinstance(outcome, Failure)}
    held_back = Counter(failure.after for failure in missing.values())
    return [
        {"folder": str(folder), "lines": list(failure.lines), "held_back": held_back[folder]}
        for folder, failure in missing.items()
        if failure.after is None
    ]


def listed(failures: Sequence[Mapping[str, Any]]) -> str:
    """What `failures_of` found, for people: each folder with its last lines, and the remedy."""
    parts = [f"{counted(len(failures), 'run')} failed:"]
    for failure in failures:
        held_back = failure["held_back"]
        note = f" ({counted(held_back, 'run')} that would have gone on from it not begun)" if held_back else ""
        parts += [f"{failure['folder']}{note}", *(f"    {line}" for line in failure["lines"])]
    remedy = "The same command with --retry runs them again; what has finished stays."
    if any(Path(failure["folder"]).parent.name == "pretrain" for failure in failures):
        remedy += " With --retry the settings of a method that failed may be others (--METHOD.optimizer.clip-norm 1)."
    return "\n".join([*parts, remedy])
