"""Launch runs on a Slurm cluster through submitit (https://github.com/facebookincubator/submitit).

Runs that can begin now are one job array. Runs that go on from one of them are an array that depends on it (`afterok`)
and is cancelled if it fails. `submitted.json` maps runs to jobs of the cluster, so that this command can be killed and
started again. A run has finished when its folder holds a result, and has failed when it left the queue without one: no
accounting (`sacct`) is needed.

submitit passes a job as a pickle, which could run code. The pickle lies in the comparison's own folder; only this user
and this user's jobs need access to it. Keep that folder where no other user can write. Results are read as JSON.
"""

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any, TypeVar

import torch

from ssl_transfer.engine.console import progress
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.runs.seal import held_result

from .jobs import NUM_LINES, Failure, Job, Outcome, attempt, blocked, failed_before, record_failure

R = TypeVar("R")
MOST_STARTS = 100
"""Largest number of time limits that one run may reach."""
LARGEST_ARRAY = 1000
"""Slurm's default limit (MaxArraySize)."""
GRACE = 90.0
"""Seconds that a result may take from the node to this machine after its job left the queue: NFS caches attributes for
up to a minute. A job whose submitit result is there is not waited for."""
PAUSES = (0.5, 15.0)
"""Seconds between two queries of the queue: the first, and the longest."""

_SILENT = "--launcher slurm: squeue does not answer. Start again when the cluster does."


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """Request resources of a Slurm cluster for each run. Only read with --launcher slurm."""

    partition: str | None = None
    """Partition of the queue. None: the cluster's default."""
    account: str | None = None
    """Account that is charged. None: the user's default."""
    minutes: int = 240
    """Time limit of one run. Pretraining that reaches it is queued again and goes on from its last checkpoint."""
    cpus: int = 4
    """Cores of one run."""
    gpus: int = 0
    """GPUs of one run: 0 or 1."""
    memory_gb: int | None = None
    """Memory of one run. None: the cluster's default."""
    at_a_time: int = 64
    """At most so many runs of one job array at a time."""


def check(config: SlurmConfig) -> None:
    """Raise InputError if nothing can be submitted from this machine, or a setting is out of range."""
    if util.find_spec("submitit") is None:
        raise InputError('--launcher slurm needs submitit: pip install "ssl_transfer[slurm]".')
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        raise InputError("--launcher slurm: there is no sbatch here. Start it on a login node of a Slurm cluster.")
    for name in ("minutes", "cpus", "memory_gb", "at_a_time"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise InputError(f"--slurm.{name.replace('_', '-')} {value}: it must be 1 or more.")
    if config.gpus not in (0, 1):
        raise InputError(f"--slurm.gpus {config.gpus}: 0 or 1. One run trains on one; several run at a time.")


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Run a job on a node of the cluster."""

    job: Job
    threads: int

    def __call__(self) -> None:
        torch.set_num_threads(self.threads)
        self.job()

    def checkpoint(self) -> Any:
        """Submit the same job again: submitit calls this shortly before the time limit or a preemption."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Cluster:
    """Submit jobs and wait for them; a `jobs.Launcher`.

    Args:
        config: resources of each run.
        folder: place of scripts, logs and `submitted.json`, on a disk that the nodes share.
        runtime: a single process.
    """

    def __init__(self, config: SlurmConfig, folder: Path, runtime: Runtime) -> None:
        self._config, self._folder, self._runtime = config, folder, runtime
        self._record = folder / "submitted.json"

    def run(self, jobs: Sequence[Job], *, retry: bool) -> dict[Path, Outcome]:
        """Do as `Launcher.run`. Submitted runs go on when this process ends; the next start waits for them again."""
        queue = self._queue()
        if queue is None:
            raise InputError(_SILENT)
        outcomes = failed_before(jobs, self._runtime, retry=retry)
        submitted, ids, deadline = self._submitted(), dict[Path, str](), time.monotonic() + GRACE
        for job in jobs:
            folder, number = job.folder, submitted.get(self._name(job.folder))
            if folder in outcomes:
                continue
            if held_result(folder) is not None:
                # A finished run is not submitted; its stage checks its settings.
                outcomes[folder] = attempt(job)
            elif failure := blocked(job, outcomes):
                outcomes[folder] = failure
            elif number in queue:
                ids[folder] = number
            elif number is not None and not retry:
                outcomes[folder] = self._left(folder, number, deadline)
        waiting = [job for job in jobs if job.folder not in outcomes]
        due = [job for job in waiting if job.folder not in ids]
        self._runtime.say(
            f"Slurm: {len(due)} runs to submit, {len(ids)} submitted before; logs in {self._folder}. "
            "They go on when this command ends; started again it waits for them."
        )
        unfinished = {job.folder for job in waiting}
        groups: dict[Path | None, list[Job]] = {}
        for job in due:
            groups.setdefault(job.after if job.after in unfinished else None, []).append(job)
        # The predecessor of a group is in an earlier group, or was submitted before.
        for after, group in groups.items():
            for start in range(0, len(group), LARGEST_ARRAY):
                part = group[start : start + LARGEST_ARRAY]
                ids |= self._submit(part, None if after is None else ids[after])
        self._wait(waiting, ids, outcomes)
        return outcomes

    def _submit(self, jobs: Sequence[Job], after: str | None) -> dict[Path, str]:
        """Submit runs as one array, and return their numbers in the queue."""
        import submitit

        config = self._config
        name = f"{self._folder.parent.name}-{uuid.uuid4().hex[:8]}"
        optional = {
            "partition": config.partition,
            "account": config.account,
            "mem": None if config.memory_gb is None else f"{config.memory_gb}G",
            "gpus_per_node": config.gpus or None,
            "dependency": None if after is None else f"afterok:{after}",
        }
        # A run that reaches its time limit is started again and resumes from its last checkpoint.
        executor = submitit.SlurmExecutor(folder=self._folder, max_num_timeout=MOST_STARTS)
        executor.update_parameters(
            job_name=name,
            time=config.minutes,
            cpus_per_task=config.cpus,
            array_parallelism=config.at_a_time,
            additional_parameters={"kill-on-invalid-dep": "yes"},
            **{key: value for key, value in optional.items() if value is not None},
        )
        groups = self._read()
        # Written before as well: after a kill in between, the next start finds the array in the queue by its name.
        group = {"name": name, "job": None, "runs": [self._name(job.folder) for job in jobs]}
        self._write([*groups, group])
        try:
            with executor.batch():
                handles = [executor.submit(_Task(job=job, threads=config.cpus)) for job in jobs]
        except Exception as error:
            self._write(groups)
            raise InputError(f"Slurm refused the runs: {error}. Change the --slurm settings.") from error
        number = handles[0].job_id.partition("_")[0]
        self._write([*groups, {**group, "job": number}])
        return _numbers([job.folder for job in jobs], number)

    def _read(self) -> list[dict[str, Any]]:
        """Read the submitted arrays, the latest last: `name`, `job` (its number in the queue) and `runs`."""
        return json.loads(self._record.read_text(encoding="utf-8")) if self._record.is_file() else []

    def _write(self, groups: Sequence[dict[str, Any]]) -> None:
        write_text(self._record, json.dumps(list(groups), indent=2) + "\n")

    def _name(self, run: Path) -> str:
        """Name a run in the record by its path below the comparison, which may be moved."""
        return os.path.relpath(run, self._folder)

    def _submitted(self) -> dict[str, str]:
        """Return the latest number of each run that an earlier start submitted, by its name in the record."""
        found: dict[str, str] = {}
        for group in self._read():
            number = group["job"]
            if number is None:
                lines = _ask("squeue", "--me", "--noheader", "--name", group["name"], "--format=%F")
                if lines is None:
                    raise InputError(_SILENT)
                number = min(lines, key=int, default=None)
            if number is not None:
                found |= _numbers(group["runs"], number)
        return found

    def _queue(self) -> dict[str, str] | None:
        """Return the state of each of this user's jobs by its number (`12_3` in an array); None if squeue fails."""
        lines = _ask("squeue", "--me", "--noheader", "--array", "--format=%i %T")
        return None if lines is None else dict(line.split(maxsplit=1) for line in lines)

    def _wait(self, jobs: Sequence[Job], ids: dict[Path, str], outcomes: dict[Path, Outcome]) -> None:
        """Fill `outcomes` as the runs end."""
        waiting, total = list(jobs), len(jobs) + len(outcomes)
        deadlines: dict[Path, float] = {}
        pause, longest = PAUSES
        with progress.bar("all runs", total, even=False) as bar:
            while waiting:
                queue = self._queue()
                for job in list(waiting):
                    folder, result = job.folder, held_result(job.folder)
                    outcome: Outcome | None = result if result is not None else blocked(job, outcomes)
                    if outcome is None and queue is not None and ids[folder] not in queue:
                        due = time.monotonic() >= deadlines.setdefault(folder, time.monotonic() + GRACE)
                        if (due or self._ended(ids[folder])) and job.after not in {other.folder for other in waiting}:
                            outcome = self._left(folder, ids[folder], deadlines[folder])
                    if outcome is not None:
                        outcomes[folder] = outcome
                        waiting.remove(job)
                        pause = PAUSES[0]
                states = [(queue or {}).get(ids.get(job.folder, ""), "") for job in waiting]
                running = sum(state == "RUNNING" for state in states)
                bar.update(len(outcomes), f"runs, {running} running, {len(waiting) - running} waiting")
                if waiting:
                    time.sleep(pause)
                    pause = min(1.3 * pause, longest)

    def _ended(self, number: str) -> bool:
        """Check for submitit's result of a job; a killed job writes none."""
        import submitit

        return submitit.SlurmJob(folder=self._folder, job_id=number).paths.result_pickle.is_file()

    def _left(self, folder: Path, number: str, deadline: float) -> Outcome:
        """Return the outcome of a run that left the queue: its result, or the last lines of its log."""
        import submitit

        while held_result(folder) is None and not self._ended(number) and time.monotonic() < deadline:
            time.sleep(PAUSES[0])
        # A job writes its result before its last lines.
        result = held_result(folder)
        if result is not None:
            return result
        said = submitit.SlurmJob(folder=self._folder, job_id=number).stderr() or ""
        lines = said.strip().splitlines()[-NUM_LINES:]
        silent = f"Slurm's job {number} left the queue without a word: cancelled, or its node failed."
        failure = Failure(lines=tuple(lines or [silent]))
        record_failure(folder, failure)
        return failure


def _numbers(runs: Sequence[R], number: str) -> dict[R, str]:
    """Number runs in the queue; submitit makes no array of a single run."""
    return {run: number if len(runs) == 1 else f"{number}_{place}" for place, run in enumerate(runs)}


def _ask(*command: str) -> list[str] | None:
    """Return the output lines of a Slurm command; None if it fails, as during a restart of the controller."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return answer.stdout.split("\n")[:-1] if answer.returncode == 0 else None
