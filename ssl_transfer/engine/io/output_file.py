"""Write a single file that a user named, without replacing an input or a file of another program.

A sealed record beside it, `NAME.json`, holds its checksum: only a file that still has it may be replaced.
"""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_transfer.engine.errors import InputError

from . import ownership
from .atomic import put_in_place
from .checksum import file_checksum, sealed, unsealed
from .file_errors import is_full, naming
from .ownership_record import owner_of
from .unfinished_files import sweep, unfinished

_WRITER, _CHECKSUM, _REPLACED = "writer", "sha256", "replaced_sha256"
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

    @property
    def is_written(self) -> bool:
        """Check for the record of an earlier command's file."""
        return _CHECKSUM in (self._recorded() or {})

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
        if recorded is None and any(map(_belongs_to_run, (self.target, self.record))):
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
        if not (self.overwrite or self._own_checksum()):
            raise InputError(
                f"{self.flag} {self.path}: exists, and its record does not show that ssl_transfer wrote it as it is. "
                f"Give another {self.flag}{'' if self.overwrite is None else ', or --overwrite to replace it'}."
            )

    def write(self, write: Callable[[Path], object], description: dict[str, Any], inputs: Iterable[Path] = ()) -> None:
        """Let `write` fill the file: completely or not at all, or a pipe as it goes.

        Args:
            write: fills the file at the path that it is called with.
            description: further content of the record, as the command.
            inputs: files that the command reads.

        Raises:
            InputError: as for `check`, also for files that appear meanwhile; the place cannot be written.
        """
        if self.is_stream:
            with naming(self.path):
                write(self.path)
            return
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._replace(write, description, inputs)
        except OSError as error:
            if is_full(error):
                raise
            raise self._refusal(error) from error

    def _replace(self, write: Callable[[Path], object], description: dict[str, Any], inputs: Iterable[Path]) -> None:
        owner = owner_of(self.target)
        if owner is not None:
            sweep(owner)
        with unfinished(self.target) as aside, naming(self.path):
            write(aside)
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            # A file may have appeared or changed meanwhile. One that appears after this check is not replaced either.
            is_new = not os.path.lexists(self.target)
            self.check(inputs)
            before = self._recorded()
            for path in (self.target, self.record):
                ownership.claim(path, replaces=True)
            # Killed between the two, the file of before is left: its checksum is in the new record.
            self._keep({**description, _CHECKSUM: file_checksum(aside), _REPLACED: self._own_checksum()})
            try:
                put_in_place(aside, self.target, is_new=is_new)
            except OSError:
                self._keep(before)
                raise

    def _keep(self, content: dict[str, Any] | None) -> None:
        """Write the record, which replaces only one of ours; remove it if there is no content."""
        is_new = self._recorded() is None
        if content is None:
            if not is_new:
                self.record.unlink()
            return
        with unfinished(self.record) as aside:
            aside.write_text(json.dumps(sealed({_WRITER: _NAME, **content}), indent=2) + "\n", encoding="utf-8")
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            put_in_place(aside, self.record, is_new=is_new)

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

    def _own_checksum(self) -> str | None:
        """Compute the checksum of the file; None where there is none, or the record does not hold it."""
        found = self._recorded()
        if found is None or not self.target.is_file():
            return None
        checksum = file_checksum(self.target)
        return checksum if checksum in (found.get(_CHECKSUM), found.get(_REPLACED)) else None


def _belongs_to_run(path: Path) -> bool:
    """Check for a file in the record of a folder of ours."""
    return owner_of(path) is not None and os.path.lexists(path) and ownership.is_recorded(path)


def _is_same(own: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(own, os.stat(path))
    except OSError:
        return False
