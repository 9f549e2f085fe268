"""Several runs: one after the other in this process, or a few at a time in processes that divide the cores."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from . import tracking
from .runtime import Runtime


def run(jobs: Sequence[Callable[[], Any]], at_a_time: int, description: str, runtime: Runtime) -> list[Any]:
    """The results of all jobs, in their order.

    Args:
        jobs: picklable when `at_a_time` is above 1. Jobs do not depend on each other.
        at_a_time: worker processes; each gets an equal share of the cores.
        description: the progress bar's text.
        runtime: of this process.
    """
    with tracking.bar(description, len(jobs), active=runtime.is_main and len(jobs) > 0) as bar:
        if at_a_time == 1:
            results = []
            for job in jobs:
                results.append(job())
                bar.update(len(results), "runs")
            return results
        # Threads of a library do not survive a fork, so workers are started anew.
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        workers = ProcessPoolExecutor(
            at_a_time,
            mp_context=context,
            initializer=_start_worker,
            initargs=(max(1, torch.get_num_threads() // at_a_time), queue),
        )
        with tracking.relayed_bars(queue), workers as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                for count, future in enumerate(as_completed(futures), start=1):
                    future.result()
                    bar.update(count, "runs")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            return [future.result() for future in futures]


def _start_worker(threads: int, queue: Any) -> None:
    torch.set_num_threads(threads)
    tracking.relay_bars(queue)
