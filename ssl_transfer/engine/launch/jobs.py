"""Several runs: what each is and what becomes of it; one after the other in this process (a few at a time: `workers`).

A run that fails leaves the others alone. What is known of it lies in its folder as `failure.json`, and it is run again
only when that is asked for.
"""

import contextlib
import gc
import json
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ssl_transfer.engine.console import progress
from ssl_transfer.engine.console.streams import explained
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.io.json_files import read_json
from ssl_transfer.engine.redaction import redacted_all
from ssl_transfer.engine.runs.run_folder import held_result

from .eta import Pace

RECORD = "failure.json"
NUM_LINES = 12
"""How many of its last lines are kept of a failed run."""


class Job(Protocol):
    """One run: called, it returns its result. Picklable where it runs in another process."""

    @property
    def folder(self) -> Path:
        """Where it leaves what it makes."""

    @property
    def title(self) -> str:
        """What it is called among the others."""

    @property
    def after(self) -> Path | None:
        """The folder of the run that it goes on from, which stands before it in every list."""

    def __call__(self) -> dict[str, Any]:
        """Run it, or go on with it, or return the result of the finished run."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a run has no result."""

    lines: tuple[str, ...]
    """The last that it said; empty where it was not begun."""
    after: Path | None = None
    """The failed run that it would have gone on from; None where it failed itself."""


Outcome = dict[str, Any] | Failure


class Launcher(Protocol):
    """What runs jobs: this machine (`workers.workers`), or a cluster (`slurm.Cluster`)."""

    def run(self, jobs: Sequence[Job], *, retry: bool) -> dict[Path, Outcome]:
        """What became of each job, by its folder. Those that failed before are run again only with `retry`."""


def failed_before(jobs: Sequence[Job], runtime: Runtime, *, retry: bool) -> dict[Path, Outcome]:
    """The failures that earlier starts left; with `retry` they are forgotten instead."""
    found: dict[Path, Outcome] = {}
    for job in jobs:
        record = job.folder / RECORD
        if not record.is_file() or held_result(job.folder) is not None:
            continue
        if not retry:
            held = read_json(record, remedy="Remove it, and the run is begun again.")
            found[job.folder] = Failure(lines=tuple(str(line) for line in held.get("lines", ())))
        elif runtime.is_main:
            record.unlink()
    runtime.wait()
    return found


def record_failure(folder: Path, failure: Failure) -> None:
    """Let the next start know of a run that failed."""
    # Where even that cannot be written, the next start runs it again.
    with contextlib.suppress(OSError):
        write_text(folder / RECORD, json.dumps({"lines": redacted_all(failure.lines)}, indent=2) + "\n")


def blocked(job: Job, outcomes: Mapping[Path, Outcome]) -> Failure | None:
    """Not to be begun: the run that it goes on from failed."""
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
        # Whatever it was: the others go on, and it is listed with its last lines.
        text = (isinstance(error, OSError) and explained(error)) or traceback.format_exc()
        return Failure(lines=tuple(text.splitlines()[-NUM_LINES:]))
    finally:
        # What was out of memory holds it no longer when the next one begins.
        gc.collect()


def pace_of(jobs: Sequence[Job], at_a_time: int) -> Pace:
    """What tells how long they still take."""
    return Pace({job.folder: job.after for job in jobs}, at_a_time)


def status(outcomes: Mapping[Path, Outcome], pace: Pace) -> str:
    """How several runs stand, for their progress bar."""
    failed = sum(isinstance(outcome, Failure) for outcome in outcomes.values())
    return f"runs{f', {failed} without a result' if failed else ''}{pace.left(outcomes)}"


class Alone:
    """Runs jobs one after the other, here; under a launcher with several processes in all of them together."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def run(self, jobs: Sequence[Job], *, retry: bool) -> dict[Path, Outcome]:
        """As `Launcher.run`. Several processes end together with the first run that fails; the next start leaves it."""
        outcomes = failed_before(jobs, self._runtime, retry=retry)
        pace = pace_of(jobs, 1)
        with progress.bar("all runs", len(jobs), active=self._runtime.is_main and len(jobs) > 0, even=False) as bar:
            for job in jobs:
                if job.folder not in outcomes:
                    started = time.monotonic()
                    outcomes[job.folder] = outcome = blocked(job, outcomes) or attempt(job)
                    if not isinstance(outcome, Failure):
                        pace.ended(job.folder, time.monotonic() - started)
                    elif outcome.after is None:
                        record_failure(job.folder, outcome)
                        if self._runtime.num_processes > 1:
                            # The other processes may be waiting for this one in the middle of a step.
                            raise RuntimeError(f"{job.folder} failed:\n" + "\n".join(outcome.lines))
                bar.update(len(outcomes), status(outcomes, pace))
        return outcomes
