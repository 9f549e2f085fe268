"""Describe several runs and their outcomes, for every launcher.

A failed run does not stop the others. Its folder keeps the last lines in `failure.json`; only --retry runs it again.
"""

import contextlib
import gc
import json
import traceback
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from ssl_transfer.engine.console import progress
from ssl_transfer.engine.console.formatting import duration
from ssl_transfer.engine.console.streams import explained
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import ownership
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.io.json_files import read_json
from ssl_transfer.engine.redaction import redacted_all
from ssl_transfer.engine.runs.seal import held_result

from .damaged_runs import check_runs

RECORD = "failure.json"
NUM_LINES = 12
"""Number of last lines that are kept of a failed run."""


class Job(Protocol):
    """Run one run when called, and return its result. Picklable for another process."""

    @property
    def folder(self) -> Path:
        """Folder of the run."""

    @property
    def title(self) -> str:
        """Name among the other runs."""

    @property
    def after(self) -> Path | None:
        """Folder of the run that it goes on from; that run stands before it in every list."""

    def check(self, result: dict[str, Any]) -> None:
        """Raise InputError if the result of this run holds a non-finite or impossible number."""

    def __call__(self) -> dict[str, Any]:
        """Run it, resume it, or return the result of the finished run."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Explain why a run has no result."""

    lines: tuple[str, ...]
    """Last lines of its output; empty for a run that was not begun."""
    after: Path | None = None
    """Folder of the failed run that it would have gone on from; None for a run that failed itself."""


Outcome = dict[str, Any] | Failure


class Launcher(Protocol):
    """Run jobs on this machine (`local.workers`) or on a cluster (`slurm.Cluster`)."""

    def run(self, jobs: Sequence[Job], *, retry: bool) -> dict[Path, Outcome]:
        """Return the outcome of each job by its folder. Jobs that failed before run again only with `retry`."""


def failed_before(jobs: Sequence[Job], runtime: Runtime, *, retry: bool) -> dict[Path, Outcome]:
    """Read the failures of earlier starts; with `retry` delete their records instead.

    Raises:
        InputError: runs are damaged, and `retry` was not given.
    """
    check_runs({job.folder: job.check for job in jobs}, runtime, retry=retry)
    found: dict[Path, Outcome] = {}
    for job in jobs:
        record = job.folder / RECORD
        if not record.is_file() or held_result(job.folder) is not None:
            continue
        if not retry:
            held = read_json(record, remedy="The same command with --retry begins the run again.")
            found[job.folder] = Failure(lines=tuple(str(line) for line in held.get("lines", ())))
        elif runtime.is_main:
            ownership.remove(record)
    runtime.wait()
    return found


def record_failure(folder: Path, failure: Failure) -> None:
    """Write the record of a failed run for the next start."""
    # Without the record the next start runs it again.
    with contextlib.suppress(OSError):
        write_text(folder / RECORD, json.dumps({"lines": redacted_all(failure.lines)}, indent=2) + "\n")


def blocked(job: Job, outcomes: Mapping[Path, Outcome]) -> Failure | None:
    """Return a failure for a job whose predecessor failed."""
    if job.after is None or not isinstance(outcomes.get(job.after), Failure):
        return None
    return Failure(lines=(), after=job.after)


def attempt(job: Job) -> Outcome:
    """Run a job in this process."""
    try:
        with progress.called(job.title):
            return job()
    except InputError as error:
        return Failure(lines=tuple(str(error).splitlines()[-NUM_LINES:]))
    except Exception as error:
        # Any error: the other runs go on, and the report lists this one with its last lines.
        text = (isinstance(error, OSError) and explained(error, remedy="Mend that.")) or traceback.format_exc()
        return Failure(lines=tuple(text.splitlines()[-NUM_LINES:]))
    finally:
        # Frees the memory of a run that was out of memory before the next one begins.
        gc.collect()


class Pace:
    """Estimate how long several runs still take, from those that have ended.

    Runs that others go on from (pretrainings) take longer than the others, so each kind has a mean of its own.

    Args:
        after: each run's folder, with the folder of the run that it goes on from.
        at_a_time: number of runs at a time.
    """

    def __init__(self, after: Mapping[Path, Path | None], at_a_time: int) -> None:
        starts = set(after.values())
        # A run that finished at an earlier start takes no time now, and is left out.
        self._kinds = {folder: folder in starts for folder in after if not (folder / "result.json").is_file()}
        self._seconds: dict[bool, list[float]] = {True: [], False: []}
        self._at_a_time = at_a_time

    def ended(self, folder: Path, seconds: float) -> None:
        """Add the seconds of a run that has a result."""
        if folder in self._kinds:
            self._seconds[self._kinds[folder]].append(seconds)

    def left(self, done: Collection[Path]) -> str:
        """Return `, about 12 min left`, or nothing at the end and while no run of a waiting kind has ended.

        Args:
            done: folders of the runs with an outcome.
        """
        waiting = Counter(kind for folder, kind in self._kinds.items() if folder not in done)
        if not waiting or not all(self._seconds[kind] for kind in waiting):
            return ""
        seconds = sum(count * fmean(self._seconds[kind]) for kind, count in waiting.items())
        return f", about {duration(seconds / min(self._at_a_time, waiting.total()))} left"


class Standing:
    """Collect the outcomes of several runs and show them on one progress bar.

    Args:
        jobs: all of them.
        outcomes: those known from earlier starts; filled.
        at_a_time: number of runs at a time.
    """

    def __init__(self, jobs: Sequence[Job], outcomes: dict[Path, Outcome], bar: progress.Bar, at_a_time: int) -> None:
        self._outcomes, self._bar = outcomes, bar
        self._pace = Pace({job.folder: job.after for job in jobs}, at_a_time)

    def add(self, job: Job, outcome: Outcome, seconds: float) -> None:
        """Keep an outcome, write the record of a failed run, and show how many runs are left."""
        self._outcomes[job.folder] = outcome
        if not isinstance(outcome, Failure):
            self._pace.ended(job.folder, seconds)
        elif outcome.after is None:
            record_failure(job.folder, outcome)
        self.show()

    def show(self) -> None:
        """Update the bar."""
        failed = sum(isinstance(outcome, Failure) for outcome in self._outcomes.values())
        without = f", {failed} without a result" if failed else ""
        self._bar.update(len(self._outcomes), f"runs{without}{self._pace.left(self._outcomes)}")
