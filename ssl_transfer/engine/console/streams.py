"""Handle broken pipes, unencodable characters, tracebacks, full disks and out-of-memory errors, without torch."""

import contextlib
import errno
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import TextIO

from ssl_transfer.engine.printable import printable
from ssl_transfer.engine.redaction import redacted
from ssl_transfer.engine.terminal import say

_FORMAT_WARNING = warnings.formatwarning
_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "Storage size calculation overflowed",
    "multiplication overflow",
)
"""Parts of torch's out-of-memory messages that come as RuntimeError."""


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Print any character in the `with` block, and end quietly at a broken pipe.

    The exit status is then 128 + SIGPIPE, as if the signal had ended the program.
    """
    _prepare_streams()
    warnings.formatwarning = _format_warning
    try:
        try:
            yield
        except Exception:
            sys.excepthook = _print_traceback
            raise
        finally:
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as stop:
        # rich turns the broken pipe of a table into SystemExit(1).
        if not any(isinstance(error, BrokenPipeError) for error in (stop, stop.__context__)):
            raise
        # Python flushes stdout once more at its end, and would print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _prepare_streams() -> None:
    """Escape characters outside the encoding, and open the null device for a closed stream."""
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            # Closed (`>&-`): a library would print into the next file that is opened.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (open until the end)
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format the warning of a library, which may name a file, with control characters escaped."""
    return printable(redacted(_FORMAT_WARNING(message, category, filename, lineno, line)))


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an unexpected error, with control characters escaped."""
    say(*"".join(traceback.format_exception(kind, error, trace)).rstrip("\n").split("\n"), error=True)


def explained(error: Exception, *, remedy: str = "Mend that and call the same command again.") -> str:
    """Return the message for a disk or out-of-memory error; empty for any other error.

    Args:
        error: raised anywhere.
        remedy: last sentence of the message about a disk.
    """
    # A run adds a note that names its complete files.
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, BrokenPipeError):
        return ""
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{error.filename}: " if error.filename else ""
        if error.errno == errno.ENAMETOOLONG:
            return f"{place}{error.strerror}. Give a shorter one."
        return f"{place}{error.strerror}.{notes} {remedy}"
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        first = (str(error).splitlines() or [""])[0]
        return f"not enough memory. {first[:200]}{notes} Take smaller sizes, or a larger machine."
    return ""
