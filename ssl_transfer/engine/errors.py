"""Errors that end a command with one readable message and no traceback."""

import difflib
import signal
from collections.abc import Iterable


class InputError(ValueError):
    """A value from outside that cannot be used: exit status 2.

    The message names the value, what is allowed and the remedy.
    """


class FailedRunsError(RuntimeError):
    """Runs that failed among several: exit status 1. The message names each with its last lines."""


class DivergedError(InputError):
    """A loss that is not finite: other settings may fare better."""


class RehearsedError(Exception):
    """A dry run is over: nobody's mistake, exit status 0. The message is what the command would do."""


class StoppedError(KeyboardInterrupt):
    """A signal asked the program to leave. Like Ctrl-C it is nobody's mistake, and passes whoever catches those."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def did_you_mean(name: str, allowed: Iterable[str], count: int = 4) -> str:
    """A half-sentence with the near ones to `name`, or an empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(allowed), n=count, cutoff=0.5)
    return f" Did you mean {', '.join(near)}?" if near else ""
