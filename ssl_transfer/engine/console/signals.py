"""Delay the signals that end a program until a training has saved its state.

They are Ctrl-C (SIGINT), `kill` (SIGTERM, which torchrun passes on and Slurm sends before it ends a job), a closed
terminal (SIGHUP), and SIGUSR1 and SIGUSR2, which a cluster can send some minutes before. A signal that is ignored, as
under nohup, stays ignored.
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
    """Record these signals for a `with` block in the main thread.

    Args:
        patient: record a second Ctrl-C too, instead of obeying it at once. Under a launcher of several processes one
            Ctrl-C arrives twice, from the terminal and from the launcher.
    """

    def __init__(self, *, patient: bool) -> None:
        self.number: int | None = None
        """First signal that was received; None before."""
        self._patient = patient
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Requests":
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def obey(self, number: int) -> None:
        """Raise a signal with its previous handler, which seldom returns."""
        self._restore()
        signal.raise_signal(number)
        self.number = None
        self._listen()

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOPPING:
            # None: a handler that was not set from Python and cannot be restored.
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
    """Raise StoppedError for signals that would end the process at once, so that the `with` block cleans up."""
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
