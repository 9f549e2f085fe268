"""Several runs: one after the other in this process, or a few at a time in processes that divide the machine.

A run that fails leaves the others alone. What is known of it lies in its folder as `failure.json`, and it is run again
only when that is asked for.
"""

import contextlib
import gc
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from . import progress, signals
from .checkpoint import write_text
from .errors import InputError
from .folder import held_result
from .records import read_json
from .runtime import Runtime
from .secrets import redacted_all
from .surroundings import explained

RECORD = "failure.json"
NUM_LINES = 12
"""How many of its last lines are kept of a failed run."""


class Job(Protocol):
    """One run: called, it returns its result. Picklable where it runs in another process."""

    @property
    def folder(self) -> Path:
        """Where it leaves what it makes."""

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
    """What runs jobs: this machine (`workers`), or a cluster (`slurm.Cluster`)."""

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


class Alone:
    """Runs jobs one after the other, here; under a launcher with several processes in all of them together."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def run(self, jobs: Sequence[Job], *, retry: bool) -> dict[Path, Outcome]:
        """As `Launcher.run`. Several processes end together with the first run that fails; the next start leaves it."""
        outcomes = failed_before(jobs, self._runtime, retry=retry)
        with progress.bar("all runs", len(jobs), active=self._runtime.is_main and len(jobs) > 0) as bar:
            for job in jobs:
                if job.folder not in outcomes:
                    outcomes[job.folder] = outcome = blocked(job, outcomes) or attempt(job)
                    if isinstance(outcome, Failure) and outcome.after is None:
                        record_failure(job.folder, outcome)
                        if self._runtime.num_processes > 1:
                            # The other processes may be waiting for this one in the middle of a step.
                            raise RuntimeError(f"{job.folder} failed:\n" + "\n".join(outcome.lines))
                bar.update(len(outcomes), _status(outcomes))
        return outcomes


class Workers:
    """Runs a few jobs at a time, each in a process of its own kept for the next; made by `workers`."""

    def __init__(self, pools: list["_Pool"], runtime: Runtime) -> None:
        self._pools, self._runtime = pools, runtime

    def run(self, jobs: Sequence[Job], *, retry: bool) -> dict[Path, Outcome]:
        """As `Launcher.run`. A job begins as soon as a worker is free and what it goes on from has finished."""
        outcomes = failed_before(jobs, self._runtime, retry=retry)
        waiting = [job for job in jobs if job.folder not in outcomes]
        free, running = list(self._pools), dict[Future[Outcome], tuple[Job, _Pool]]()
        with progress.bar("all runs", len(jobs)) as bar:
            while waiting or running:
                unfinished = {job.folder for job in [*waiting, *(job for job, _ in running.values())]}
                for job in [job for job in waiting if job.after not in unfinished]:
                    failure = blocked(job, outcomes)
                    if failure is not None:
                        outcomes[job.folder] = failure
                    elif free:
                        pool = free.pop(0)
                        running[pool.submit(job)] = job, pool
                    else:
                        break
                    waiting.remove(job)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, pool = running.pop(future)
                    outcomes[job.folder] = outcome = pool.outcome(future)
                    free.append(pool)
                    if isinstance(outcome, Failure):
                        record_failure(job.folder, outcome)
                bar.update(len(outcomes), _status(outcomes))
        return outcomes


def _status(outcomes: Mapping[Path, Outcome]) -> str:
    failed = sum(isinstance(outcome, Failure) for outcome in outcomes.values())
    return f"runs, {failed} without a result" if failed else "runs"


class _Pool:
    """One worker process, and another one where it was killed."""

    def __init__(self, threads: int, device: str | None, queue: Any) -> None:
        self._settings = (threads, device, queue)
        self._executor = self._start()

    def _start(self) -> ProcessPoolExecutor:
        # Threads of a library do not survive a fork, so workers are started anew.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker, initargs=self._settings)

    def submit(self, job: Job) -> Future[Outcome]:
        return self._executor.submit(_attempt_in_worker, job)

    def outcome(self, future: Future[Outcome]) -> Outcome:
        """Of a job that has ended, its process perhaps with it."""
        try:
            return future.result()
        except BrokenProcessPool:
            self.close()
            self._executor = self._start()
            return Failure(lines=("Its process was killed: most often the machine ran out of memory.",))

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def workers(at_a_time: int, runtime: Runtime) -> Iterator[Launcher]:
    """What runs so many jobs at a time for the `with` block: this process where it is one, otherwise workers.

    Each worker has an equal share of the cores, and a GPU of its own where there are as many.
    """
    if at_a_time == 1:
        yield Alone(runtime)
        return
    devices = visible_devices()
    if 0 < len(devices) < at_a_time:
        runtime.warn(f"--jobs {at_a_time} on {len(devices)} GPU{'s' * (len(devices) > 1)}: runs share them.")
    queue = multiprocessing.get_context("spawn").Queue()
    threads = max(1, torch.get_num_threads() // at_a_time)
    with contextlib.ExitStack() as stack:
        stack.enter_context(progress.relayed_bars(queue))
        pools = []
        for number in range(at_a_time):
            pools.append(_Pool(threads, devices[number % len(devices)] if devices else None, queue))
            stack.callback(pools[-1].close)
        try:
            yield Workers(pools, runtime)
        except KeyboardInterrupt:
            # Workers save what they are at; closing waits for them.
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def visible_devices() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def _start_worker(threads: int, device: str | None, queue: Any) -> None:
    if device is not None:
        # Read when the first tensor goes there, which was not yet.
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    torch.set_num_threads(threads)
    # Ctrl-C reaches every process of a terminal; the parent tells the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    progress.relay_bars(queue)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _attempt_in_worker(job: Job) -> Outcome:
    with signals.raised():
        return attempt(job)


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on for ever, with the lock of its run held."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
