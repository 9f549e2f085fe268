"""Track the metrics of a run: `metrics.jsonl` always, wandb and other trackers on request.

`metrics.jsonl` is the reference: `send` shows it in wandb at any later time, as the tracker would have done.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import append_text, write_text
from ssl_transfer.engine.io.json_files import line_of, lines_of
from ssl_transfer.engine.redaction import redacted_all
from ssl_transfer.engine.terminal import say

from .other_trackers import Others
from .wandb_run import Board, Names, Taken, TrackingConfig

__all__ = ["Tracker", "TrackingConfig", "drop_after", "publish", "send"]
_SHOWN = 5
"""Line numbers in a warning, at most."""
NAMES = "tracking.json"
"""File beside `metrics.jsonl` with the run's names in wandb and its summary."""


class Tracker:
    """Write metrics on rank 0. Values are Python floats, so that a value read back equals the written one.

    `group`, `job_type` and `title` (by default the folder's name) are how wandb shows the run. A `with` block ends it,
    as a failed run where an exception leaves the block.
    """

    def __init__(
        self,
        path: Path,
        config: TrackingConfig,
        runtime: Runtime,
        *,
        settings: dict[str, Any],
        group: str,
        job_type: str,
        title: str = "",
    ) -> None:
        self._board: Board | None = None
        self._path = path
        self._active = self._behind = runtime.is_main
        if self._active:
            self._names = Names(name=title or path.parent.name, group=group, job_type=job_type)
            self._keep({})
            self._board = Board(config, path.parent, settings, self._names)
            self._others = Others(config, path.parent, settings, self._names)

    def log(self, record: dict[str, Any]) -> None:
        """Append one record: a line of `metrics.jsonl`, flushed, so that a killed run keeps it."""
        if not self._active:
            return
        self._catch_up()
        append_text(self._path, line_of(redacted_all(record)))
        self._tell(record)

    def summarize(self, values: dict[str, float]) -> None:
        """Show these values in wandb's table of runs; `result.json` has them in any case."""
        if not self._active:
            return
        self._keep(values)
        self._catch_up()
        if self._board is not None:
            self._board.summarize(values)

    def close(self, *, failed: bool = False) -> None:
        """Show the artifacts in the folder, and end; a failed run shows its log alone."""
        self._catch_up()
        if self._board is not None:
            if not failed:
                self._board.show()
            self._board.finish(failed=failed)
            self._others.finish(failed=failed)
            self._board = None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(failed=error is not None)

    def _catch_up(self) -> None:
        """Send the lines of earlier starts of this run, so that the trackers have all of it.

        It waits for the first line of this start: a resumed training removes some of them (`drop_after`).
        """
        if self._behind:
            self._behind = False
            for record in _logged(self._path):
                self._tell(record)

    def _tell(self, record: dict[str, Any]) -> None:
        if self._board is not None:
            self._board.log(record)
            self._others.log(record)

    def _keep(self, summary: dict[str, float]) -> None:
        """Store names and summary for `send`."""
        content = {**asdict(self._names), "summary": summary}
        write_text(self._path.with_name(NAMES), json.dumps(redacted_all(content), indent=2) + "\n")


def publish(
    config: TrackingConfig,
    folder: Path,
    settings: dict[str, Any],
    *,
    job_type: str,
    summary: dict[str, float],
    files: Sequence[Path],
) -> Taken:
    """Show a group of runs in wandb: a run of its own with a summary, and files as an artifact.

    Args:
        config: of wandb; off does nothing.
        folder: of the group, whose name is the group's.
        settings: of all.
        job_type: which stage.
        summary: numbers by name.
        files: the report and the tables.

    Returns:
        online or offline, where wandb has all of it; empty where it has not.
    """
    name = folder.resolve().name
    board = Board(config, folder, settings, Names(name=name, group=name, job_type=job_type))
    board.summarize(summary)
    board.attach(f"{name}-report", files)
    board.finish()
    return board.taken


def send(config: TrackingConfig, folder: Path, settings: dict[str, Any]) -> Taken:
    """Show the log of a run in wandb, as its tracker would have done.

    Args:
        config: of wandb.
        folder: of the run.
        settings: of the run.

    Returns:
        online or offline, where wandb has all of it; empty where it has not.
    """
    names, summary = _names_of(folder)
    board = Board(config, folder, settings, names)
    for record in _logged(folder / "metrics.jsonl"):
        board.log(record)
    if summary:
        board.summarize(summary)
    board.show()
    board.finish()
    return board.taken


def _names_of(folder: Path) -> tuple[Names, dict[str, float]]:
    """Read the names and the summary that the run's tracker stored for `send`."""
    path = folder / NAMES
    if not path.is_file():
        # A run of an older version.
        return Names(name=folder.resolve().name), {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return Names(name=held["name"], group=held["group"], job_type=held["job_type"]), dict(held["summary"])
    except (ValueError, KeyError, TypeError) as error:
        remedy = "Remove it: the run is then shown by its folder's name."
        raise InputError(f"{path}: not readable ({error}). {remedy}") from error


def _logged(path: Path) -> list[dict[str, Any]]:
    return [line.content for line in lines_of(path) if line.is_whole] if path.is_file() else []


def flush(path: Path) -> None:
    """Flush all lines to the disk."""
    if path.is_file():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def drop_after(path: Path, phase: str, step: int) -> None:
    """Remove all lines from the first of `phase` after `step` on: a resumed run writes them again.

    Lines of later phases depend on them and go too, as does a line that a kill cut off.
    """
    if not path.is_file():
        return
    lines = lines_of(path)
    places = (place for place, line in enumerate(lines) if _is_after(line.content, phase, step))
    lines = lines[: next(places, len(lines))]
    damaged = [str(line.number) for line in lines if not line.is_whole]
    if damaged:
        numbers = ", ".join(damaged[:_SHOWN]) + (", ..." if len(damaged) > _SHOWN else "")
        say(f"warning: {path}: damaged in line {numbers}; the log and its curves go on without these lines.")
    write_text(path, "".join(line_of(line.content) for line in lines if line.is_whole))


def _is_after(record: dict[str, Any], phase: str, step: int) -> bool:
    """Check for a record of a phase after a step; a damaged one counts by what is left of it."""
    found = record.get("step", 0)
    return record.get("phase") == phase and isinstance(found, (int, float)) and found > step
