"""Run jobs on this machine: one after the other, or a few at a time in worker processes."""

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

from .jobs import Failure, Job, Launcher, Outcome, Standing, attempt, blocked, failed_before


class Alone:
    """Run jobs one after the other, in this process or in all processes of a launcher together."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def run(self, jobs: Sequence[Job], *, retry: bool) -> dict[Path, Outcome]:
        """Do as `Launcher.run`. Several processes end together at the first failed run; the next start skips it."""
        outcomes = failed_before(jobs, self._runtime, retry=retry)
        with progress.bar("all runs", len(jobs), active=self._runtime.is_main and len(jobs) > 0, even=False) as bar:
            standing = Standing(jobs, outcomes, bar, 1)
            for job in jobs:
                if job.folder in outcomes:
                    standing.show()
                    continue
                started = time.monotonic()
                outcome = blocked(job, outcomes) or attempt(job)
                standing.add(job, outcome, time.monotonic() - started)
                if isinstance(outcome, Failure) and outcome.after is None and self._runtime.num_processes > 1:
                    # The other processes may be waiting for this one in the middle of a step.
                    raise RuntimeError(f"{job.folder} failed:\n" + "\n".join(outcome.lines))
        return outcomes


class Workers:
    """Run a few jobs at a time, each in a process that is kept for the next job; made by `workers`."""

    def __init__(self, pools: list["_Pool"], runtime: Runtime) -> None:
        self._pools, self._runtime = pools, runtime

    def run(self, jobs: Sequence[Job], *, retry: bool) -> dict[Path, Outcome]:
        """Do as `Launcher.run`. A job begins when a worker is free and its predecessor has finished."""
        outcomes = failed_before(jobs, self._runtime, retry=retry)
        waiting = [job for job in jobs if job.folder not in outcomes]
        free, running = list(self._pools), dict[Future[Outcome], tuple[Job, _Pool, float]]()
        with progress.bar("all runs", len(jobs), even=False) as bar:
            standing = Standing(jobs, outcomes, bar, len(free))
            standing.show()
            while waiting or running:
                unfinished = {job.folder for job in [*waiting, *(job for job, *_ in running.values())]}
                for job in [job for job in waiting if job.after not in unfinished]:
                    failure = blocked(job, outcomes)
                    if failure is not None:
                        standing.add(job, failure, 0.0)
                    elif free:
                        pool = free.pop(0)
                        running[pool.submit(job)] = job, pool, time.monotonic()
                    else:
                        break
                    waiting.remove(job)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, pool, started = running.pop(future)
                    standing.add(job, pool.outcome(future), time.monotonic() - started)
                    free.append(pool)
        return outcomes


class _Pool:
    """Hold one worker process, and start another one after it was killed."""

    def __init__(self, threads: int, device: str | None, queue: Any) -> None:
        self._settings = (threads, device, queue)
        self._executor = self._start()

    def _start(self) -> ProcessPoolExecutor:
        # Threads of a library do not survive a fork.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, mp_context=context, initializer=_start_worker, initargs=self._settings)

    def submit(self, job: Job) -> Future[Outcome]:
        return self._executor.submit(_attempt_in_worker, job)

    def outcome(self, future: Future[Outcome]) -> Outcome:
        """Return the outcome of a job that has ended, or a failure if its process was killed."""
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
    """Launch jobs for the `with` block: this process alone for one at a time, otherwise worker processes.

    Each worker has an equal share of the cores, and a GPU of its own if there are enough.
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
            # Each worker saves its training state; closing waits for that.
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise


def visible_devices() -> list[str]:
    """List the GPUs of this process by their names in CUDA_VISIBLE_DEVICES."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def _start_worker(threads: int, device: str | None, queue: Any) -> None:
    if device is not None:
        # CUDA reads it at its first use, which is still to come.
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    torch.set_num_threads(threads)
    # Ctrl-C reaches every process of a terminal; the parent terminates the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    progress.relay_bars(queue)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _attempt_in_worker(job: Job) -> Outcome:
    with signals.raised():
        return attempt(job)


def _end_with_parent() -> None:
    """End this worker with its parent: it would go on and keep the lock of its run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
