"""Signals that ask a program to leave: a training first saves its state, then they do what they would have done.

Ctrl-C (SIGINT), `kill` (SIGTERM, which torchrun hands on and Slurm sends before it takes a node away), a terminal that
is closed (SIGHUP), and the two that clusters are told to send some minutes before (SIGUSR1, SIGUSR2). A signal that is
ignored, as under nohup, stays ignored.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ssl_transfer.engine.errors import StoppedError

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Requests:
    """Notes, for a `with` block in the main thread, that one of these signals came.

    Args:
        patient: note every further one too; otherwise a second Ctrl-C is obeyed at once. Under a launcher of several
            processes one Ctrl-C arrives twice, from the terminal and from the launcher.
    """

    def __init__(self, *, patient: bool) -> None:
        self.number: int | None = None
        """The first signal that came; None before."""
        self._patient = patient
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Requests":
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def obey(self, number: int) -> None:
        """Let a signal do what it would have done without the `with` block: mostly this does not return."""
        self._restore()
        signal.raise_signal(number)
        self.number = None
        self._listen()

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOPPING:
            # None: somebody's who is not Python, and whom Python cannot put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._previous[number] = signal.signal(number, self._note)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.number is None or self._patient or number != signal.SIGINT:
            self.number = self.number or number
        else:
            self.obey(number)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """For the `with` block, what would end the process on the spot raises StoppedError instead: the rest is undone."""
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.signal(number, _raise)
    try:
        yield
    finally:
        for stopping, handler in previous.items():
            signal.signal(stopping, handler)


def _raise(number: int, _frame: FrameType | None) -> None:
    raise StoppedError(number)
