"""Write a single file that a user named, without replacing an input or a file of another program.

A sealed record beside it, `NAME.json`, holds its checksum: only a file that still has it may be replaced.
"""

import contextlib
import fcntl
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_transfer.engine.errors import InputError

from . import ownership
from .atomic import put_in_place
from .checksum import file_checksum, sealed, unsealed
from .file_errors import is_full, naming
from .ownership_record import owner_of
from .unfinished_files import unfinished

_WRITER, _CHECKSUM, _REPLACED, _UNFINISHED = "writer", "sha256", "replaced_sha256", "unfinished"
_NAME = "ssl_transfer"


@dataclass(frozen=True, kw_only=True)
class OutputFile:
    """A file named by a flag. A pipe or a device is written into, a link is followed."""

    path: Path
    flag: str = "--output"
    overwrite: bool | None = None
    """Replace a file that this program did not write. None: the command has no such flag."""

    @property
    def target(self) -> Path:
        """File at the end of all links."""
        return Path(os.path.realpath(self.path))

    @property
    def record(self) -> Path:
        """Sealed record of the file."""
        return self.target.with_name(f"{self.target.name}.json")

    @property
    def is_stream(self) -> bool:
        """Check for a pipe, a character device or an open file of the process, as `/dev/stdout`."""
        found = self._mode()
        is_open_file = os.path.realpath(self.path.parent).startswith(("/proc/", "/dev/fd")) or (
            os.path.realpath(self.path.parent) == "/dev" and self.path.is_symlink()
        )
        return found is not None and (stat.S_ISFIFO(found) or stat.S_ISCHR(found) or is_open_file)

    def check(self, inputs: Iterable[Path] = ()) -> None:
        """Refuse a folder, an input, or a file of another program.

        Args:
            inputs: files that the command reads.

        Raises:
            InputError: naming the flag and the file.
        """
        found = self._mode()
        if self.is_stream:
            return
        recorded = self._recorded()
        if recorded is None and owner_of(self.target) and any(map(ownership.is_recorded, (self.target, self.record))):
            raise InputError(f"{self.flag} {self.path}: belongs to the run or report in its folder. Give another.")
        if recorded is None and os.path.lexists(self.record):
            raise InputError(
                f"{self.flag} {self.path}: its record {self.record} is a file of another program, or damaged. "
                f"Give another {self.flag}, or move that file away."
            )
        if found is None:
            return
        if stat.S_ISDIR(found):
            raise InputError(f"{self.flag} {self.path}: is a folder. Give the name of a file.")
        if not stat.S_ISREG(found):
            raise InputError(f"{self.flag} {self.path}: is neither a file nor a pipe. Give the name of a file.")
        own = os.stat(self.target)
        if any(_is_same(own, path) for path in inputs):
            raise InputError(f"{self.flag} {self.path}: is one of the inputs, which is never replaced. Give another.")
        if not (self.overwrite or self._is_ours()):
            raise InputError(
                f"{self.flag} {self.path}: exists, and its record does not show that ssl_transfer wrote it as it is. "
                f"Give another {self.flag}{'' if self.overwrite is None else ', or --overwrite to replace it'}."
            )

    def write(self, write: Callable[[Path], object], description: dict[str, Any]) -> None:
        """Let `write` fill the file: completely or not at all, or a pipe as it goes.

        Args:
            write: fills the file at the path that it is called with.
            description: further content of the record, as the command.

        Raises:
            InputError: as for `check`, which comes before; the place cannot be written.
        """
        if self.is_stream:
            with naming(self.path):
                write(self.path)
            return
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._replace(write, description)
        except OSError as error:
            if is_full(error):
                raise
            raise self._refusal(error) from error

    def _replace(self, write: Callable[[Path], object], description: dict[str, Any]) -> None:
        before = self._recorded() or {}
        _remove_unfinished(self.target, before)
        for path in (self.target, self.record):
            ownership.claim(path, replaces=True)
        with unfinished(self.target) as aside, naming(self.path):
            # The record names the unfinished file, so that a later start removes that of a killed one.
            self._keep({**before, _UNFINISHED: aside.name})
            try:
                write(aside)
                with open(aside, "rb") as file:
                    os.fsync(file.fileno())
                # A process that is killed here leaves the file of before.
                self._keep({**description, _CHECKSUM: file_checksum(aside), _REPLACED: before.get(_CHECKSUM)})
                put_in_place(aside, self.target)
            except BaseException:
                if (self._recorded() or {}).get(_UNFINISHED) == aside.name:
                    self._keep(before)
                raise

    def _keep(self, content: dict[str, Any]) -> None:
        """Write the record, or remove one without content."""
        kept = {name: value for name, value in content.items() if name != _WRITER}
        if not kept:
            self.record.unlink(missing_ok=True)
            return
        with unfinished(self.record) as aside:
            aside.write_text(json.dumps(sealed({_WRITER: _NAME, **kept}), indent=2) + "\n", encoding="utf-8")
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            put_in_place(aside, self.record)

    def _refusal(self, error: OSError) -> InputError:
        return InputError(f"{self.flag} {self.path}: cannot be written ({error.strerror}). Give another.")

    def _mode(self) -> int | None:
        """Return the type and mode of the file at the end of all links; None where there is none."""
        try:
            return os.stat(self.path).st_mode
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refusal(error) from error

    def _recorded(self) -> dict[str, Any] | None:
        """Read the record; None where there is none, or none of ours."""
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            found = dict(json.loads(self.record.read_text(encoding="utf-8")))
            if found.get(_WRITER) == _NAME and "checksum" in found:
                return unsealed(found)
        return None

    def _is_ours(self) -> bool:
        found = self._recorded()
        known = () if found is None else (found.get(_CHECKSUM), found.get(_REPLACED))
        return file_checksum(self.target) in known


def _is_same(own: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(own, os.stat(path))
    except OSError:
        return False


def _remove_unfinished(target: Path, record: dict[str, Any]) -> None:
    """Remove the unfinished file that the record names, unless a living process holds its lock."""
    name = str(record.get(_UNFINISHED, ""))
    if not re.fullmatch(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.part", name):
        return
    path = target.with_name(name)
    with contextlib.suppress(OSError), _opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
