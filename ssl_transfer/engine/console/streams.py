"""What the machine does to a command: output that nobody reads, letters that it cannot show, no disk, no memory.

Without torch, as the command imports it before anything else.
"""

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from typing import TextIO

_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "Storage size calculation overflowed",
    "multiplication overflow",
)
"""What torch's errors say that have no type of their own."""


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """For the `with` block everything can be printed.

    A reader that goes (`| head`) ends the program quietly, with the status of one that the signal for it has ended.
    """
    _prepare_streams()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as stop:
        # Where it was a table that nobody read, rich has said SystemExit(1).
        if not any(isinstance(error, BrokenPipeError) for error in (stop, stop.__context__)):
            raise
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _prepare_streams() -> None:
    """What an encoding lacks is printed as its number, and what has nowhere to go into nothing."""
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            # Closed (`>&-`): libraries would print into the next file that is opened.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (open until the end)
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def explained(error: Exception) -> str:
    """What to tell the user of a disk that cannot be written to or read, or of memory that there is not; or nothing."""
    # A run says in its notes what of it is whole.
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, BrokenPipeError):
        return ""
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{error.filename}: " if error.filename else ""
        if error.errno == errno.ENAMETOOLONG:
            return f"{place}{error.strerror}. Give a shorter one."
        return f"{place}{error.strerror}.{notes} Mend that and call the same command again: it goes on where it can."
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        first = (str(error).splitlines() or [""])[0]
        return f"not enough memory. {first[:200]}{notes} Take smaller sizes, or a larger machine."
    return ""
