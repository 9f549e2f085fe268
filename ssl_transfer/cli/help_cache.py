"""Help that is shown at once: a page is kept from its first time, as building it imports torch and all that trains.

A page belongs to the code that wrote it (every file of the package, tyro's version), to the width and the colours of
the terminal: where one of these has changed it is built anew. Only the bare `COMMAND ... --help` is kept.
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

from ssl_transfer.engine.redaction import redacted_all

FOLDER = Path("~/.cache/ssl_transfer/help")
MOST = 200
"""Pages that are kept; with more, all are forgotten."""
_ASKING = ("-h", "--help")


def shown(arguments: Sequence[str], build: Callable[[], None]) -> None:
    """Print the page that `build` prints before it ends with status 0, as it was kept where it was.

    Args:
        arguments: of the command line; where they are anything but words and one request for help, `build` is called
            and nothing is kept.
        build: runs the command. Its SystemExit is handed on.
    """
    *words, last = [*arguments, ""][:-1] or [""]
    if last not in _ASKING or any(word.startswith("-") for word in words) or redacted_all(words) != words:
        build()
        return
    page = FOLDER.expanduser() / f"{_key(words)}.txt"
    try:
        kept = page.read_text(encoding="utf-8")
    except (OSError, ValueError):
        kept = ""
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
    """A stream that notes what it prints, and otherwise is the one that it stands for."""

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
    # Without a home to write to, help takes as long as it takes.
    with contextlib.suppress(OSError):
        page.parent.mkdir(parents=True, exist_ok=True)
        held = list(page.parent.glob("*.txt"))
        for one in held if len(held) >= MOST else ():
            one.unlink(missing_ok=True)
        aside = page.with_suffix(f".{os.getpid()}")
        aside.write_text(text, encoding="utf-8")
        aside.replace(page)
