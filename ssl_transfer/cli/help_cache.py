"""Cache the pages of `--help`: building one imports torch and all that trains.

The key of a page holds the modification times of the package, tyro's version, and the width and colours of the
terminal. Only the bare `COMMAND ... --help` is cached.
"""

import contextlib
import hashlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TextIO

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import ownership
from ssl_transfer.engine.redaction import redacted_all

FOLDER = Path("~/.cache/ssl_transfer/pages")
MOST = 200
"""Largest number of pages; all that the record of the folder holds are deleted beyond it."""
_ASKING = ("-h", "--help")


def shown(arguments: Sequence[str], build: Callable[[], None]) -> None:
    """Print the cached page, or call `build` and cache the page that it prints before it ends with status 0.

    Args:
        arguments: command line; unless it is words and one request for help, nothing is cached.
        build: runs the command; its SystemExit is passed on.
    """
    *words, last = [*arguments, ""][:-1] or [""]
    if last not in _ASKING or any(word.startswith("-") for word in words) or redacted_all(words) != words:
        build()
        return
    try:
        page = FOLDER.expanduser() / f"{_key(words)}.txt"
        kept = page.read_text(encoding="utf-8")
    except (FileNotFoundError, ValueError):
        kept = ""
    except (OSError, RuntimeError):
        # RuntimeError: the user has no home folder.
        build()
        return
    if kept:
        sys.stdout.write(kept)
        sys.exit(0)
    stream, sys.stdout = sys.stdout, (copy := _Copied(sys.stdout))
    try:
        build()
    except SystemExit as stop:
        if stop.code in (0, None):
            _keep(page, copy.text.getvalue())
        raise
    finally:
        sys.stdout = stream


class _Copied(io.TextIOBase):
    """Copy a stream's text; delegate all else to the stream."""

    def __init__(self, stream: TextIO) -> None:
        self.text, self._stream = io.StringIO(), stream

    def write(self, text: str) -> int:
        self.text.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding


def _key(words: Sequence[str]) -> str:
    package = Path(__file__).parents[1]
    files = sorted((str(path), path.stat().st_mtime_ns) for path in package.rglob("*.py"))
    terminal = (shutil.get_terminal_size().columns, sys.stdout.isatty())
    variables = [os.environ.get(name) for name in ("TERM", "NO_COLOR")]
    whole = repr((list(words), files, metadata.version("tyro"), sys.version, terminal, variables))
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def _keep(page: Path, text: str) -> None:
    # Imported here: it takes a tenth of a second, and a cached page needs none of it.
    from ssl_transfer.engine.io.atomic import write_text

    # Where the folder cannot be written, or is not ours, nothing is cached.
    with contextlib.suppress(OSError, InputError):
        ownership.own_folder(page.parent)
        held = [one for one in page.parent.glob("*.txt") if ownership.is_recorded(one)]
        for one in held if len(held) >= MOST else ():
            ownership.remove(one)
        write_text(page, text)
