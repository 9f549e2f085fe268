"""Define the errors that end a command with one readable message and no traceback."""

import difflib
import signal
from collections.abc import Iterable

from .printable import one_line


class InputError(ValueError):
    """Refuse a value from outside: exit status 2. The message names the value, the constraint and the fix.

    Each argument is a line of the message. Control characters inside it come from a value and are escaped.
    """

    def __str__(self) -> str:
        return "\n".join(map(one_line, self.args))


class FailedRunsError(RuntimeError):
    """Report failed runs among several: exit status 1. The message names each with its last lines.

    The arguments are those of `InputError`.
    """

    def __str__(self) -> str:
        return "\n".join(map(one_line, self.args))


class DivergedError(InputError):
    """Report a non-finite loss; the fix is other settings."""


class RehearsedError(Exception):
    """End a dry run: exit status 0. The one argument is its page, as `printable.Drawn`."""


class StoppedError(KeyboardInterrupt):
    """End the program after a signal. Like Ctrl-C it is no error, and passes `except Exception`."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def reason_of(error: BaseException) -> str:
    """Return the message of a library's error, which may have several lines, on one line."""
    return " ".join(str(error).split())


def did_you_mean(name: str, allowed: Iterable[str], count: int = 4) -> str:
    """Return a question with the names close to `name`, or nothing if none is close."""
    near = difflib.get_close_matches(name, list(allowed), n=count, cutoff=0.5)
    return f" Did you mean {', '.join(near)}?" if near else ""
