"""Find runs with damaged files before any run of a comparison begins, and move them aside on request."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssl_transfer.engine.console import progress
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import ownership, state_files
from ssl_transfer.engine.io.atomic import DamagedError
from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.printable import one_line
from ssl_transfer.engine.runs.checkpoint_files import numbered
from ssl_transfer.engine.runs.run_folder import check_readable, check_record, own_run_folder, run_lock, set_aside
from ssl_transfer.engine.runs.seal import RESULT_FILE, SEAL_FILE, damages, has_result, held_result, is_sealed

Check = Callable[[dict[str, Any]], None]

_INPUTS = ("config.yaml", "environment.json", "metrics.jsonl")
"""Files that a run which ends once more does not write again."""
_DAMAGED = ".damaged"


def check_runs(folders: Mapping[Path, Check], runtime: Runtime, *, retry: bool) -> None:
    """Refuse runs with damaged files, or with `retry` move the damage aside, so that they run again.

    Args:
        folders: of the runs, each with a check of its result, which is made with `retry` alone.
        runtime: rank 0 moves files.
        retry: as in `Launcher.run`.

    Raises:
        InputError: with the first message of each damaged run. Nothing was changed.
    """
    problem: tuple[str, ...] = ()
    if runtime.is_main:
        found = {}
        begun = {folder: check for folder, check in folders.items() if folder.is_dir()}
        with progress.bar("checking finished runs", len(begun), active=bool(begun)) as bar:
            for count, (folder, check) in enumerate(begun.items(), start=1):
                if one := _damage(folder, check if retry else None):
                    found[folder] = one
                bar.update(count, "")
        num_unsealed = sum(has_result(folder) and not is_sealed(folder) for folder in folders)
        if num_unsealed:
            runtime.say(
                f"{counted(num_unsealed, 'run')} of an older version without checksums: a changed number in a result "
                "is not detected."
            )
        if found and not retry:
            problem = (
                f"{len(found)} of {len(folders)} runs are damaged:",
                *(f"  {next(iter(one.values()))}" for one in found.values()),
                "The same command with --retry moves the damaged files aside and repeats these runs; the tables stay "
                "as they are until then.",
            )
        for folder, one in found.items() if retry else ():
            _move_aside(folder, list(one))
            runtime.say(f"{folder}: damaged files moved aside; the run is repeated.")
    lines = runtime.from_main("\n".join(map(one_line, problem))).splitlines()
    if lines:
        raise InputError(*lines)


def _damage(folder: Path, check_result: Check | None) -> dict[str, str]:
    """Return the message of each damaged file of a run, by its name; empty where all are whole."""
    found = damages(folder)
    checks: dict[str, Callable[[], object]] = {"config.yaml": lambda: check_readable(folder)}
    if not has_result(folder) and (folder / ownership.RECORD).is_file():
        checks[ownership.RECORD] = lambda: check_record(folder)
    if has_result(folder) and not is_sealed(folder) and (folder / "metrics.jsonl").is_file():
        checks["metrics.jsonl"] = lambda: read_lines(folder / "metrics.jsonl")
    for name, check in checks.items():
        try:
            check()
        except InputError as error:
            found.setdefault(name, str(error))
    if check_result is not None and not found:
        result = held_result(folder)
        try:
            if result is not None:
                check_result(result)
            elif not _has_whole_states(folder):
                found["checkpoints"] = "no whole checkpoint"
        except InputError as error:
            found[RESULT_FILE] = str(error)
    return found


def _has_whole_states(folder: Path) -> bool:
    """Check that of each kind of checkpoint one is whole; also where there is none yet."""
    for newest in sorted((folder / "checkpoints").glob("*.pt")):
        for path in numbered(newest):
            with contextlib.suppress(DamagedError, FileNotFoundError):
                state_files.load_state(path)
                break
        else:
            return False
    return True


def _move_aside(folder: Path, damaged: list[str]) -> None:
    """Move damaged outputs aside, where a checkpoint gives them again, or else the whole folder.

    Raises:
        InputError: another process is writing the run.
    """
    with run_lock(folder):
        if ownership.RECORD in damaged:
            set_aside(folder)
            return
        own_run_folder(folder)
        has_states = any((folder / "checkpoints").glob("*.pt")) and _has_whole_states(folder)
        if not has_states or any(name in _INPUTS for name in damaged):
            set_aside(folder)
            return
        for name in dict.fromkeys([*damaged, RESULT_FILE, SEAL_FILE]):
            paths = list((folder / name).glob("*")) if name.endswith("/") else [folder / name]
            for path in paths:
                if path.is_file() and path.suffix != _DAMAGED:
                    ownership.move(path, path.with_name(f"{path.name}{_DAMAGED}"))
