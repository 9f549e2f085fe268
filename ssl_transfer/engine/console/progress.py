"""Show progress bars of this process and its workers, or print lines outside a terminal."""

import contextlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from ssl_transfer.engine.printable import one_line
from ssl_transfer.engine.terminal import say


class Bar(Protocol):
    """Show one piece of work on the display."""

    def update(self, done: int, status: str) -> None:
        """Show that `done` units are finished; `status` is a short text such as loss and images per second."""


class _Silent:
    def update(self, done: int, status: str) -> None:
        pass


class _Live:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def update(self, done: int, status: str) -> None:
        self._progress.update(self._task, completed=done, status=status)


class _Lines:
    """Print a line every half minute, for CI and log files."""

    def __init__(self, description: str, total: int, *, even: bool, seconds: float = 30.0) -> None:
        self._description, self._total, self._even, self._seconds = description, total, even, seconds
        self._started = self._printed = time.monotonic()

    def update(self, done: int, status: str) -> None:
        now = time.monotonic()
        if now - self._printed >= self._seconds and done:
            seconds = (now - self._started) / done * (self._total - done)
            left = f"  {seconds:.0f} s left" if self._even else ""
            say(f"{self._description}: {done}/{self._total}  {status}{left}")
            self._printed = now


class _Remote:
    """Send a worker's bar to the parent process, at most four times a second."""

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


class _Remaining(TimeRemainingColumn):
    """Show the remaining time of even work."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.fields["even"] else Text()


class _Display:
    """Hold the one live display of this process; nested bars share it."""

    progress: Progress | None = None
    depth = 0
    relay: Any = None
    run = ""


@contextlib.contextmanager
def called(run: str) -> Iterator[None]:
    """Prefix the bars of the `with` block with the name of a run."""
    before, _Display.run = _Display.run, run
    try:
        yield
    finally:
        _Display.run = before


def relay_bars(queue: Any) -> None:
    """Send the bars of this worker to the parent, which reads `queue` in `relayed_bars`."""
    # A worker killed during a write leaves the queue locked; no process waits for it.
    queue.cancel_join_thread()
    _Display.relay = queue


@contextlib.contextmanager
def relayed_bars(queue: Any) -> Iterator[None]:
    """Show the workers' bars below the parent's own for the `with` block."""

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


def _redraws() -> bool:
    """Check for a terminal that redraws; CI provides one for colours, and keeps every line."""
    kept = os.environ.get("CI", "").lower() not in ("", "0", "false") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not kept


@contextlib.contextmanager
def bar(description: str, total: int, *, active: bool = True, even: bool = True) -> Iterator[Bar]:
    """Show a progress bar with a status and the remaining time for the `with` block; bars may be nested.

    Args:
        description: name of the work.
        total: number of units.
        active: False shows nothing, as on ranks above 0.
        even: units take equally long, so that finished units give the remaining time.
    """
    description = one_line(f"{_Display.run}, {description}" if _Display.run else description)
    if not active:
        yield _Silent()
    elif _Display.relay is not None:
        remote = _Remote(_Display.relay, description, total)
        try:
            yield remote
        finally:
            remote.close()
    elif not _redraws():
        yield _Lines(description, total, even=even)
    else:
        if _Display.progress is None:
            _Display.progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}", markup=False),
                _Remaining(),
                console=Console(),
                transient=True,
            )
            _Display.progress.start()
        progress = _Display.progress
        task = progress.add_task(description, total=total, status="", even=even)
        _Display.depth += 1
        try:
            yield _Live(progress, task)
        finally:
            progress.remove_task(task)
            _Display.depth -= 1
            if _Display.depth == 0:
                progress.stop()
                _Display.progress = None
