"""Run functions on chunks of images in worker processes or threads, under a progress bar."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

import joblib

from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine.console.progress import bar

_MANY = 2048
"""Number of images from which processes decode instead of threads; processes take a third of a second to start."""
T = TypeVar("T")


def num_workers(config: LoadingConfig) -> int:
    """Return the number of workers of this process."""
    return config.workers or max(1, joblib.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def run_in_workers(
    function: Callable[..., list[T]], tasks: Iterable[tuple], total: int, description: str, config: LoadingConfig
) -> Iterator[list[T]]:
    """Yield the results of all tasks, in order; many images are decoded by processes.

    Args:
        function: called with the values of one task, which covers many images; returns one result an image.
        tasks: arguments of each call.
        total: images of all tasks.
        description: text beside the progress bar.
        config: number of workers.
    """
    return _run("loky" if total >= _MANY else "threading", function, tasks, total, description, config)


def run_in_threads(
    function: Callable[..., list[T]], tasks: Iterable[tuple], total: int, description: str, config: LoadingConfig
) -> Iterator[list[T]]:
    """Yield results as `run_in_workers`, of a function that frees the interpreter's lock."""
    return _run("threading", function, tasks, total, description, config)


def _run(
    backend: Literal["loky", "threading"],
    function: Callable[..., list[T]],
    tasks: Iterable[tuple],
    total: int,
    description: str,
    config: LoadingConfig,
) -> Iterator[list[T]]:
    parallel = joblib.Parallel(n_jobs=num_workers(config), backend=backend, return_as="generator")
    done = 0
    with bar(description, total) as progress:
        for answers in parallel(joblib.delayed(function)(*task) for task in tasks):
            done += len(answers)
            progress.update(done, "")
            yield answers
