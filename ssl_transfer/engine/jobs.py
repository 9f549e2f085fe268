"""Several runs: one after the other in this process, or a few at a time in processes that divide the cores."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from . import tracking
from .runtime import Runtime

Job = Callable[[], Any]
"""Picklable where it runs in another process. Jobs that run together do not depend on each other."""


class Workers:
    """Runs jobs; made by `workers`."""

    def __init__(self, pool: ProcessPoolExecutor | None, runtime: Runtime) -> None:
        self._pool, self._runtime = pool, runtime

    def run(self, jobs: Sequence[Job], description: str) -> list[Any]:
        """The results of all jobs, in their order, under a progress bar. The first that fails ends the others."""
        with tracking.bar(description, len(jobs), active=self._runtime.is_main and len(jobs) > 0) as bar:
            if self._pool is None:
                results = []
                for job in jobs:
                    results.append(job())
                    bar.update(len(results), "runs")
                return results
            futures = [self._pool.submit(job) for job in jobs]
            try:
                for count, future in enumerate(as_completed(futures), start=1):
                    future.result()
                    bar.update(count, "runs")
            except BaseException:
                self._pool.shutdown(cancel_futures=True)
                raise
            return [future.result() for future in futures]


@contextlib.contextmanager
def workers(at_a_time: int, runtime: Runtime) -> Iterator[Workers]:
    """Worker processes for the `with` block, each with an equal share of the cores; none where one runs at a time."""
    if at_a_time == 1:
        yield Workers(None, runtime)
        return
    # Threads of a library do not survive a fork, so workers are started anew.
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    pool = ProcessPoolExecutor(
        at_a_time,
        mp_context=context,
        initializer=_start_worker,
        initargs=(max(1, torch.get_num_threads() // at_a_time), queue),
    )
    with tracking.relayed_bars(queue), pool:
        yield Workers(pool, runtime)


def _start_worker(threads: int, queue: Any) -> None:
    torch.set_num_threads(threads)
    tracking.relay_bars(queue)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on for ever, with the lock of its run held."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
