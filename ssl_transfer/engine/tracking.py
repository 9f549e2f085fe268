"""What is seen of a run: `metrics.jsonl` always, wandb when asked (no other file knows it), and progress bars."""

import contextlib
import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from .runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where metrics go beside `metrics.jsonl`, which always has them all."""

    wandb: Literal["off", "auto", "offline", "online"] = "off"
    """Weights & Biases: off; offline (files under the run's folder, for `wandb sync`); online (needs a login); auto:
    online where a login is found, otherwise offline."""
    project: str = "ssl_transfer"
    """wandb's project. Only read when wandb is not off."""


class Tracker:
    """Writes metrics on rank 0. Values are Python floats, so one read back equals the one written."""

    def __init__(
        self,
        path: Path,
        config: TrackingConfig,
        runtime: Runtime,
        *,
        settings: dict[str, Any],
        group: str,
        job_type: str,
    ) -> None:
        self._run: Any = None
        self._path = path
        self._active = runtime.is_main
        if self._active and config.wandb != "off":
            import wandb

            mode = config.wandb
            if mode == "auto":
                mode = "online" if wandb.login(prompt=False) else "offline"
            self._run = wandb.init(
                project=config.project,
                dir=str(path.parent),
                name=path.parent.name,
                group=group,
                job_type=job_type,
                config=settings,
                mode=mode,
                settings=wandb.Settings(silent=True),
            )

    def log(self, record: dict[str, Any]) -> None:
        """Append one record: a line of `metrics.jsonl`, flushed, so that a killed run keeps it."""
        if not self._active:
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._run is not None:
            prefix = "/".join(str(record[key]) for key in ("phase", "split") if key in record)
            numbers = {key: value for key, value in record.items() if isinstance(value, (int, float))}
            self._run.log({f"{prefix}/{key}" if key not in ("step", "epoch") else key: v for key, v in numbers.items()})

    def close(self) -> None:
        """End the wandb run, if there is one."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def drop_after(path: Path, phase: str, step: int) -> None:
    """Forget the lines of `phase` after `step`: a resumed run writes them again, and each stands once.

    A line that was cut off by a kill is dropped too.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.get("phase") != phase or record.get("step", 0) <= step:
            kept.append(line)
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


class Bar(Protocol):
    """One piece of work on the display."""

    def update(self, done: int, status: str) -> None:
        """`done` units are finished; `status` is a short text such as the loss and the images per second."""


class _Silent:
    def update(self, done: int, status: str) -> None:
        pass


class _Live:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def update(self, done: int, status: str) -> None:
        self._progress.update(self._task, completed=done, status=status)


class _Lines:
    """Where the output is no terminal (CI, a log file): a line every half minute."""

    def __init__(self, description: str, total: int, seconds: float = 30.0) -> None:
        self._description, self._total, self._seconds = description, total, seconds
        self._started = self._printed = time.monotonic()

    def update(self, done: int, status: str) -> None:
        now = time.monotonic()
        if now - self._printed >= self._seconds and done:
            left = (now - self._started) / done * (self._total - done)
            print(f"{self._description}: {done}/{self._total}  {status}  {left:.0f} s left", flush=True)
            self._printed = now


class _Remote:
    """In a worker: what the bar shows goes to the parent, at most a few times a second."""

    def __init__(self, queue: Any, description: str, total: int) -> None:
        self._queue, self._description, self._total = queue, description, total
        self._key, self._sent = uuid.uuid4().hex, 0.0

    def update(self, done: int, status: str) -> None:
        now = time.monotonic()
        if now - self._sent >= 0.25:
            self._queue.put((self._key, self._description, self._total, done, status))
            self._sent = now

    def close(self) -> None:
        self._queue.put((self._key, self._description, self._total, -1, ""))


class _Display:
    """The one live display of this process; bars inside bars share it."""

    progress: Progress | None = None
    depth = 0
    relay: Any = None


def relay_bars(queue: Any) -> None:
    """In a worker: show this process's bars in the parent, which reads `queue` with `relayed_bars`."""
    # A worker that was killed while it wrote leaves the queue locked; nobody waits for what is only shown.
    queue.cancel_join_thread()
    _Display.relay = queue


@contextlib.contextmanager
def relayed_bars(queue: Any) -> Iterator[None]:
    """In the parent: show the workers' bars below its own for the `with` block."""

    def read() -> None:
        stacks: dict[str, contextlib.ExitStack] = {}
        bars: dict[str, Bar] = {}
        while (message := queue.get()) is not None:
            key, description, total, done, status = message
            if key not in bars and done >= 0:
                stacks[key] = contextlib.ExitStack()
                bars[key] = stacks[key].enter_context(bar(description, total))
            if done >= 0:
                bars[key].update(done, status)
            elif key in bars:
                del bars[key]
                stacks.pop(key).close()
        for stack in stacks.values():
            stack.close()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        queue.cancel_join_thread()
        queue.put(None)
        thread.join(timeout=5.0)


@contextlib.contextmanager
def bar(description: str, total: int, *, active: bool = True) -> Iterator[Bar]:
    """A progress bar with a status and the time left, for the `with` block. Bars may stand inside bars."""
    if not active:
        yield _Silent()
    elif _Display.relay is not None:
        remote = _Remote(_Display.relay, description, total)
        try:
            yield remote
        finally:
            remote.close()
    elif not sys.stdout.isatty():
        yield _Lines(description, total)
    else:
        if _Display.progress is None:
            _Display.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=Console(),
                transient=True,
            )
            _Display.progress.start()
        progress = _Display.progress
        task = progress.add_task(description, total=total, status="")
        _Display.depth += 1
        try:
            yield _Live(progress, task)
        finally:
            progress.remove_task(task)
            _Display.depth -= 1
            if _Display.depth == 0:
                progress.stop()
                _Display.progress = None
