"""Rehearse a command for `--dry-run`: count its steps, time a few of them, and end with a table.

A rehearsal is the run itself in a folder that is removed, each of its trainings a few steps long, without trackers. The
real folder is only read. The cache of decoded pixels is filled as ever.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from rich.table import Table

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import counted, drawn, duration, table, words
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import RehearsedError
from ssl_transfer.engine.launch import jobs as launching
from ssl_transfer.engine.printable import Drawn
from ssl_transfer.engine.runs.seal import held_result
from ssl_transfer.engine.training import step_timing

from .run_config import VOLATILE

PATIENCE = 60.0
"""Seconds after which no further kind of run is rehearsed."""
NOTE = (
    "Nothing was trained or written; decoded pixels stay in the cache. Times are estimates, from a few steps on this "
    "machine, as busy as it is now."
)
HIDDEN = (*VOLATILE, "loading", "method.augment", "augment")
"""Settings that the summary of a single run leaves out."""


class Job(launching.Job, Protocol):
    """Describe a run of several that can be rehearsed in another folder."""

    @property
    def kind(self) -> str:
        """Name shared by the runs that differ in their seed alone."""

    def elsewhere(self, place: Path, start: Path | None) -> Callable[[], Any]:
        """Return the same run in another folder, without trackers, going on from `start`."""


def single(
    output: Path,
    settings: Mapping[str, Any],
    introduction: str,
    runtime: Runtime,
    work: Callable[[Path], object],
    *,
    fresh: bool,
) -> None:
    """Rehearse one run: `work` does it in the folder that it is given.

    Raises:
        RehearsedError: always, with the table of its phases.
    """
    trainings, seconds = _rehearsed(work, runtime)
    listed = table("phase", "epochs", "steps", "batch", "rate", "trained", "s a step", "about")
    for one in trainings:
        counts = [f"{count:,}" for count in (one.epochs, one.steps, one.batch_size)]
        rate, trained = f"{one.learning_rate:.3g}", f"{one.num_trained:,}"
        listed.add_row(one.phase, *counts, rate, trained, f"{one.step:.3g}", duration(one.seconds))
    shown = [
        f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in configuration.flatten(dict(settings)).items()
        if value not in (None, False, "", []) and not f"{name}.".startswith(tuple(f"{one}." for one in HIDDEN))
    ]
    end = [f"settings: {', '.join(shown)}", f"In all about {duration(seconds)}. {NOTE}"]
    raise RehearsedError(_page(output, introduction, listed, end, fresh=fresh))


def several(
    output: Path, jobs: Sequence[Job], introduction: str, runtime: Runtime, *, at_a_time: int, fresh: bool
) -> None:
    """Rehearse one run of each kind, until `PATIENCE` is over; a run stands behind the one that it goes on from.

    Raises:
        RehearsedError: always, with the table of all kinds.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.kind, []).append(job)
    began, places = time.monotonic(), dict[Path, Path]()
    measured: dict[str, tuple[list[step_timing.Training], float]] = {}
    with ExitStack() as stack:
        for name, group in groups.items():
            ready = [job for job in group if not job.after or job.after in places or held_result(job.after)]
            if not ready or (measured and time.monotonic() - began >= PATIENCE):
                continue
            first = ready[0]
            start = None if first.after is None else places.get(first.after, first.after)
            place = stack.enter_context(_shared_folder(runtime))
            measured[name] = _rehearsed(lambda folder: first.elsewhere(folder, start)(), runtime, place)  # noqa: B023
            places[first.folder] = place / "run"
    mean = fmean(seconds for _, seconds in measured.values())
    listed, count, total = table("runs", "number", "done", "steps (trained)", "each", "left"), 0, 0.0
    for name, group in groups.items():
        trainings, each = measured.get(name, ((), mean))
        done = 0 if fresh else sum(held_result(job.folder) is not None for job in group)
        left = len(group) - done
        count, total = count + left, total + left * each
        steps = words(*(f"{one.phase} {one.steps:,} ({one.num_trained:,})" for one in trainings))
        seconds = f"{duration(each)}{'' if name in measured else ' (mean)'}"
        listed.add_row(words(name), str(len(group)), str(done), steps, seconds, duration(left * each))
    shared = f", {duration(total / at_a_time)} with {at_a_time} at a time on cores of their own" * (at_a_time > 1)
    end = f"{counted(count, 'run')} to go, one after the other about {duration(total)}{shared}. {NOTE}"
    raise RehearsedError(_page(output, introduction, listed, [end], fresh=fresh))


def _rehearsed(
    work: Callable[[Path], object], runtime: Runtime, place: Path | None = None
) -> tuple[list[step_timing.Training], float]:
    """Return the trainings of a run, and the seconds that all of it would take."""
    with ExitStack() as stack:
        folder = place or stack.enter_context(_shared_folder(runtime))
        trainings = stack.enter_context(step_timing.rehearsing())
        started = time.monotonic()
        work(folder / "run")
        passed = time.monotonic() - started
        return trainings, passed + sum(one.seconds - one.spent for one in trainings)


@contextlib.contextmanager
def _shared_folder(runtime: Runtime) -> Iterator[Path]:
    """Yield a folder that all processes share; remove it at the end of the `with` block."""
    own = tempfile.TemporaryDirectory(prefix="ssl_transfer-") if runtime.is_main else contextlib.nullcontext("")
    with own as name:
        yield Path(runtime.from_main(name))
        runtime.wait()


def _page(output: Path, introduction: str, listed: Table, end: Sequence[str], *, fresh: bool) -> Drawn:
    begun = (output / "config.yaml").is_file()
    if begun and fresh:
        state = "what is there would be moved aside, and all be done anew"
    elif held_result(output) is not None:
        state = "has finished before; nothing would be done"
    else:
        state = "was begun before, and would go on from what it has" if begun else "would be made"
    return drawn("dry run", *introduction.split("\n"), f"{output}: {state}", listed, *end)
