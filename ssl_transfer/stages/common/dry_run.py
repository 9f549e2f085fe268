"""`--dry-run`: a command goes as far as its first training, rehearses it, says what it would do, and leaves nothing.

A rehearsal is the run itself in a folder that is thrown away, each of its trainings a few steps long, wandb off. What
the real folder holds is only read; the cache of decoded pixels is filled as ever.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.table import Table
from rich.text import Text

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import counted, drawn, duration, table
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import RehearsedError
from ssl_transfer.engine.runs.run_folder import held_result
from ssl_transfer.engine.training import dry_run

from .run_config import VOLATILE

PATIENCE = 60.0
"""Seconds after which no further kind of run is rehearsed."""
NOTE = (
    "Nothing was trained or written; decoded pixels stay in the cache. Times are estimates, from a few steps on this "
    "machine, as busy as it is now."
)


class Job(Protocol):
    """A run of several, which can be rehearsed elsewhere."""

    @property
    def folder(self) -> Path:
        """Where it would go."""

    @property
    def after(self) -> Path | None:
        """The folder of the run that it goes on from."""

    @property
    def kind(self) -> str:
        """What it shares with those that differ from it in their seed alone."""

    def elsewhere(self, place: Path, start: Path | None) -> Callable[[], Any]:
        """The same run in another folder, going on from another one, not logged anywhere else."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Runs that differ in their seeds."""

    name: str
    runs: int
    finished: int
    trainings: Sequence[dry_run.Training]
    """Of one of them; none where it was not rehearsed."""
    seconds: float | None
    """Of one of them; None where none was rehearsed."""


def single(
    output: Path,
    settings: Mapping[str, Any],
    introduction: str,
    runtime: Runtime,
    work: Callable[[Path], object],
    *,
    fresh: bool,
) -> None:
    """Rehearse one run, and end with what it would do.

    Args:
        output: where it would go.
        settings: as the run would keep them.
        introduction: what it says at its beginning.
        runtime: of the run.
        work: does the run in the folder that it is given.
        fresh: whether it would start over.

    Raises:
        RehearsedError: always.
    """
    trainings, seconds = _rehearsed(work, runtime)
    listed = table("phase", "epochs", "steps", "batch", "rate", "trained", "s a step", "about")
    for one in trainings:
        listed.add_row(
            one.phase,
            f"{one.epochs:,}",
            f"{one.steps:,}",
            f"{one.batch_size:,}",
            f"{one.learning_rate:.3g}",
            f"{one.num_trained:,}",
            f"{one.step:.3g}",
            duration(one.seconds),
        )
    raise RehearsedError(
        _page(
            f"{introduction}\n{output}: {_state(output, fresh)}",
            listed,
            f"{_settings(settings)}\nIn all about {duration(seconds)}. {NOTE}",
        )
    )


def several(
    output: Path, jobs: Sequence[Job], introduction: str, runtime: Runtime, *, at_a_time: int, fresh: bool
) -> None:
    """Rehearse one run of each kind, as long as there is patience, and end with what all of them would do.

    Args:
        output: where they would go.
        jobs: each behind the one that it goes on from.
        introduction: what is said at the beginning.
        runtime: of the runs.
        at_a_time: runs at a time.
        fresh: whether all of them would start over.

    Raises:
        RehearsedError: always.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.kind, []).append(job)
    started, places, kinds = time.monotonic(), dict[Path, Path](), list[Kind]()
    with ExitStack() as stack:
        for name, group in groups.items():
            first = next((job for job in group if _can_begin(job, places)), None)
            trainings, seconds = list[dry_run.Training](), None
            if first is not None and (not kinds or time.monotonic() - started < PATIENCE):
                start = None if first.after is None else places.get(first.after, first.after)
                place = stack.enter_context(_shared_folder(runtime))
                trainings, seconds = _rehearsed(lambda folder: first.elsewhere(folder, start)(), runtime, place)  # noqa: B023
                places[first.folder] = place / "run"
            finished = 0 if fresh else sum(held_result(job.folder) is not None for job in group)
            kinds.append(Kind(name=name, runs=len(group), finished=finished, trainings=trainings, seconds=seconds))
    measured = [kind.seconds for kind in kinds if kind.seconds is not None]
    usual = sum(measured) / len(measured)
    listed, total = table("runs", "number", "done", "steps (trained)", "each", "left"), 0.0
    for kind in kinds:
        each = usual if kind.seconds is None else kind.seconds
        left = (kind.runs - kind.finished) * each
        total += left
        listed.add_row(
            kind.name,
            str(kind.runs),
            str(kind.finished),
            "\n".join(f"{one.phase} {one.steps:,} ({one.num_trained:,})" for one in kind.trainings),
            f"{duration(each)}{'' if kind.seconds is not None else ' (mean)'}",
            duration(left),
        )
    shared = f", {duration(total / at_a_time)} with {at_a_time} at a time on cores of their own" * (at_a_time > 1)
    count = sum(kind.runs - kind.finished for kind in kinds)
    end = f"{counted(count, 'run')} to go, one after the other about {duration(total)}{shared}. {NOTE}"
    raise RehearsedError(_page(f"{introduction}\n{output}: {_state(output, fresh)}", listed, end))


def _can_begin(job: Job, places: Mapping[Path, Path]) -> bool:
    """Whether what it goes on from is there, from before or rehearsed."""
    return job.after is None or job.after in places or held_result(job.after) is not None


def _rehearsed(
    work: Callable[[Path], object], runtime: Runtime, place: Path | None = None
) -> tuple[list[dry_run.Training], float]:
    """The trainings of a run, and the seconds that it would take with all that is around them."""
    with ExitStack() as stack:
        folder = place or stack.enter_context(_shared_folder(runtime))
        trainings = stack.enter_context(dry_run.rehearsing())
        started = time.monotonic()
        work(folder / "run")
        passed = time.monotonic() - started
        return trainings, passed + sum(one.seconds - one.spent for one in trainings)


@contextlib.contextmanager
def _shared_folder(runtime: Runtime) -> Iterator[Path]:
    """A folder of all processes that is removed at the end of the `with` block."""
    own = tempfile.TemporaryDirectory(prefix="ssl_transfer-") if runtime.is_main else contextlib.nullcontext("")
    with own as name:
        yield Path(runtime.from_main(name))
        runtime.wait()


def _state(output: Path, fresh: bool) -> str:
    if fresh and (output / "config.yaml").is_file():
        return "what is there would be moved aside, and all be done anew"
    if held_result(output) is not None:
        return "has finished before; nothing would be done"
    if (output / "config.yaml").is_file():
        return "was begun before, and would go on from what it has"
    return "would be made"


def _settings(settings: Mapping[str, Any]) -> str:
    """What decides the result, without what is not set and how images are drawn."""
    groups = (*VOLATILE, "loading", "method.augment", "augment")
    shown = [
        f"{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in configuration.flatten(dict(settings)).items()
        if value not in (None, False, "", []) and not any(name == one or name.startswith(f"{one}.") for one in groups)
    ]
    return f"settings: {', '.join(shown)}"


def _page(before: str, listed: Table, after: str) -> str:
    return drawn(Text(f"dry run\n{before}"), listed, Text(after))
