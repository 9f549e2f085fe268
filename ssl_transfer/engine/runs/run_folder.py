"""Open the folder of a run for writing: identity, lock, settings, result, environment."""

import contextlib
import errno
import functools
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import yaml

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError, reason_of
from ssl_transfer.engine.io import ownership
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.redaction import redacted, redacted_all

from . import older_folders
from .seal import held_result, write_result

_PACKAGES = ("torch", "torchvision", "timm", "lightly", "accelerate", "numpy", "scikit-learn")


class OtherRunError(InputError):
    """Refuse a folder with a run of another command, other settings, other images or other weights."""


class RunFolder:
    """`config.yaml`, `environment.json`, `metrics.jsonl`, `checkpoints/`, and `result.json` once the run has finished.

    A `with` block holds the folder's lock while a run is under way, so that no second process writes there.

    Args:
        path: the folder; made when absent.
        settings: resolved settings. A folder with other settings is refused by the names that differ.
        runtime: rank 0 writes.
        identity: fingerprints of images and weights; a changed one is refused too.
        fresh: move what is there aside (to `NAME.old-1`, ...) and start over. Nothing is deleted.
        volatile: settings, or whole groups of them, that may change between two starts of one run.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        runtime: Runtime,
        *,
        identity: dict[str, str],
        fresh: bool,
        volatile: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self._runtime = runtime
        self._stack = contextlib.ExitStack()
        problem, is_other = "", False
        if runtime.is_main:
            try:
                if fresh and path.is_dir():
                    self._move_aside()
                self._open(settings, identity, volatile)
            except InputError as error:
                problem, is_other = str(error), isinstance(error, OtherRunError)
        # Raised on every rank: the others would wait for rank 0.
        problem = runtime.from_main(problem)
        if problem:
            raise OtherRunError(problem) if runtime.from_main("other" if is_other else "") else InputError(problem)

    def _open(self, settings: dict[str, Any], identity: dict[str, str], volatile: tuple[str, ...]) -> None:
        check_held(self.path, settings, identity, volatile)
        # A damaged result is refused before the first file is written.
        held_result(self.path)
        own_run_folder(self.path)
        try:
            if self.result is None:
                self._acquire()
            if self.result is None:
                record = {"identity": identity, **environment(self._runtime)}
                write_text(self.path / "environment.json", json.dumps(record, indent=2) + "\n")
                # The settings of a finished run are sealed.
                write_text(self.path / "config.yaml", configuration.dump(settings))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(
                f"--output {self.path}: cannot be written ({error.strerror}). Give another folder."
            ) from error

    def _move_aside(self) -> None:
        """Rename the folder; refuse one that holds no run, or a run that is under way."""
        if not older_folders.has_begun(self.path):
            ownership.check_folder(self.path)
        names = {path.name for path in self.path.iterdir()} - {ownership.MARKER, ".lock"}
        if not names or (names == {"environment.json"} and ownership.is_owned(self.path)):
            # Empty, or killed when it had hardly begun.
            return
        self._acquire()
        set_aside(self.path)
        self._stack.close()

    def _acquire(self) -> None:
        self._stack.enter_context(run_lock(self.path))

    @property
    def result(self) -> dict[str, Any] | None:
        """Result of the finished run; None before its end."""
        return held_result(self.path)

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result, which marks the run as finished."""
        if self._runtime.is_main:
            write_result(self.path, redacted_all(result))
        self._runtime.wait()

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file into the folder, on rank 0."""
        if self._runtime.is_main:
            write_text(self.path / name, json.dumps(redacted_all(content), indent=2) + "\n")

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._stack.close()
        if isinstance(error, OSError):
            error.add_note(self._whole())

    def _whole(self) -> str:
        """Name the checkpoint from which an interrupted run resumes."""
        saved = max(self.checkpoints.glob("*.pt"), key=lambda path: path.stat().st_mtime, default=None)
        return f"{saved} is whole." if saved is not None else f"{self.path} has no checkpoint yet."


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder for the `with` block.

    Raises:
        InputError: another process has it.
    """
    lock = filelock.FileLock(folder / ownership.LOCK, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(
            f"{folder}: another process is writing this run. Wait for it, or give another --output."
        ) from error
    try:
        yield
    finally:
        lock.release()


def own_run_folder(path: Path) -> None:
    """Create the folder of a run with its record, or open that of an earlier command.

    Raises:
        InputError: the folder holds other files, or its record is damaged.
    """
    check_record(path)
    ownership.own_folder(path, adopted=() if ownership.is_owned(path) else older_folders.files_of(path))


def check_record(path: Path) -> None:
    """Refuse a folder without a run, and one whose record is damaged.

    Raises:
        ForeignFileError: naming the folder.
    """
    if ownership.is_owned(path):
        return
    if not older_folders.has_begun(path):
        ownership.check_folder(path)
    elif (record := path / ownership.RECORD).is_file():
        raise ownership.ForeignFileError(
            f"--output {path}: the record of its files, {record}, is damaged, so that no file there is replaced. "
            "Remove it if files with the names of a run's outputs may be replaced, or give another --output."
        )


def check_free(folder: Path) -> None:
    """Refuse the folder of a run, and one with files of another program, for the results of another command.

    Raises:
        InputError: naming `--output` and the folder.
    """
    if (folder / "config.yaml").is_file():
        raise InputError(f"--output {folder}: holds a run, whose own files stay. Give another folder.")
    ownership.check_folder(folder)


def check_held(path: Path, settings: dict[str, Any], identity: dict[str, str], volatile: tuple[str, ...]) -> None:
    """Refuse a folder with a run of other settings or fingerprints, and one without a run.

    Raises:
        OtherRunError: the first.
        InputError: the second, or its settings are damaged.
    """
    check_record(path)
    if not (path / "config.yaml").is_file():
        return
    before, recorded, command = _read_held(path)
    start_over = "Give another --output, or --fresh to start over there (what is there is moved aside, not deleted)."
    if not all(_is_one_of(name, (*LATER, *volatile)) for name in before.keys() ^ settings.keys()):
        raise OtherRunError(
            f"{path} holds a run of another command, or of another version of this one: `{command}`. {start_over}"
        )
    differing = changes(before, settings, volatile)
    if differing:
        earlier = {
            name: old for name, (old, _) in _changed(before, settings, volatile).items() if old not in (None, [])
        }
        flags = shlex.join(configuration.flags_of(earlier))
        go_on = f"To go on with its settings, add {flags}. " if flags else ""
        raise OtherRunError(f"{path} holds a run with other settings: {'; '.join(differing)}. {go_on}{start_over}")
    for name, value in identity.items():
        if recorded.get(name) != value:
            raise OtherRunError(
                f"{path} holds a run with another {name} (fingerprint {recorded.get(name)}, "
                f"now {value}). Give another --output, or --fresh to start over there."
            )


def _read_held(path: Path) -> tuple[dict[str, Any], dict[str, str], str]:
    """Read the settings, the identity and the command of the run in a folder."""
    name = "config.yaml"
    try:
        before = dict(configuration.load((path / name).read_text(encoding="utf-8")))
        name = "environment.json"
        recorded = json.loads((path / name).read_text(encoding="utf-8"))
        return before, dict(recorded["identity"]), " ".join(recorded["command"].split()[:2])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"--output {path}: holds no readable {name} of a run ({reason_of(error)}). Give another --output, or "
            "--fresh to start over there (the content is moved aside, not deleted)."
        ) from error


def check_readable(folder: Path) -> None:
    """Refuse damaged settings or a damaged identity of the run in a folder; one without settings is accepted."""
    if (folder / "config.yaml").is_file():
        _read_held(folder)


_ANY = object()
LATER = {"deterministic": _ANY, "optimizer.sync_batch_norm": _ANY, "plans": []}
"""Settings that earlier versions did not have, with the value of their runs; `_ANY` stands for every value. Each may be
nested in any group."""


def changes(before: dict[str, Any], now: dict[str, Any], volatile: tuple[str, ...]) -> list[str]:
    """List the settings that changed between two starts of a run: `epochs was 2 and is now 3`."""
    return [f"{name} was {old!r} and is now {new!r}" for name, (old, new) in _changed(before, now, volatile).items()]


def _changed(before: dict[str, Any], now: dict[str, Any], volatile: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """Return the earlier and the present value of each changed setting, by name."""
    old, new = configuration.flatten(before), configuration.flatten(now)
    for name in new.keys() - old.keys():
        later = next((value for one, value in LATER.items() if f".{name}".endswith(f".{one}")), None)
        old[name] = new[name] if later is _ANY else later
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not _is_one_of(name, volatile)
    }


def _is_one_of(name: str, settings: Sequence[str]) -> bool:
    """Check for a setting of this list, also nested in a group, and for a member of a group of this list."""
    return any(
        name == one or name.startswith(f"{one}.") or ("." in one and name.endswith(f".{one}")) for one in settings
    )


def set_aside(folder: Path) -> None:
    """Rename the folder of a run to `NAME.old-1`, ..., so that its content is kept and the next run starts anew.

    Raises:
        ForeignFileError: no record shows that the folder is one of ours.
    """
    if not older_folders.has_begun(folder) and not (folder / ownership.RECORD).is_file():
        ownership.check_folder(folder)
    folder.rename(free_name(folder))


def free_name(path: Path) -> Path:
    """Return the first of `NAME.old-1`, `NAME.old-2`, ... that does not exist."""
    number = 1
    while (candidate := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    return candidate


@functools.cache
def git_commit() -> str:
    """Return the commit of this package's checkout; empty without one."""
    here = Path(__file__).resolve().parent
    answer = subprocess.run(  # noqa: S603
        ["git", "-C", str(here), "rev-parse", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip()


@functools.cache
def _version(package: str) -> str:
    return metadata.version(package)


def command_line() -> str:
    """Return the command of this process, without credentials."""
    return shlex.join(redacted(word) for word in [Path(sys.argv[0]).name, *sys.argv[1:]])


def environment(runtime: Runtime) -> dict[str, Any]:
    """Describe versions, devices and command of this run, so that it can be repeated; credentials are left out."""
    return {
        "command": command_line(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": runtime.describe(),
        "git_commit": git_commit(),
    }
