"""Lock downloads into a folder that several processes share."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from ssl_transfer.engine.io.hub import no_endless_silence


@contextlib.contextmanager
def alone(root: Path, name: str) -> Iterator[None]:
    """Let one process download; the others wait and then find the files."""
    root.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(root / f".{name}.lock"), no_endless_silence():
        yield
