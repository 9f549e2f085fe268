"""A few runs at a time, in processes that divide the machine and are kept for the next runs."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from ssl_transfer.engine.console import progress, signals
from ssl_transfer.engine.distributed.runtime import Runtime

from .jobs import (
    Alone,
    Failure,
    Job,
    Launcher,
    Outcome,
    attempt,
    blocked,
    failed_before,
    pace_of,
    record_failure,
    status,
)


class Workers:
    """Runs a few jobs at a time, each in a process of its own kept for the next; made by `workers`."""

    def __init__(self, pools: list["_Pool"], runtime: Runtime) -> None:
        self._pools, self._runtime = pools, runtime

    def run(self, jobs: Sequence[Job], *, retry: bool) -> dict[Path, Outcome]:
        """As `Launcher.run`. A job begins as soon as a worker is free and what it goes on from has finished."""
        outcomes = failed_before(jobs, self._runtime, retry=retry)
        waiting = [job for job in jobs if job.folder not in outcomes]
        free, running = list(self._pools), dict[Future[Outcome], tuple[Job, _Pool, float]]()
        pace = pace_of(jobs, len(free))
        with progress.bar("all runs", len(jobs), even=False) as bar:
            while waiting or running:
                unfinished = {job.folder for job in [*waiting, *(job for job, *_ in running.values())]}
                for job in [job for job in waiting if job.after not in unfinished]:
                    failure = blocked(job, outcomes)
                    if failure is not None:
                        outcomes[job.folder] = failure
                    elif free:
                        pool = free.pop(0)
                        running[pool.submit(job)] = job, pool, time.monotonic()
                    else:
                        break
                    waiting.remove(job)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, pool, started = running.pop(future)
                    outcomes[job.folder] = outcome = pool.outcome(future)
                    free.append(pool)
                    if isinstance(outcome, Failure):
                        record_failure(job.folder, outcome)
                    else:
                        pace.ended(job.folder, time.monotonic() - started)
                bar.update(len(outcomes), status(outcomes, pace))
        return outcomes


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
