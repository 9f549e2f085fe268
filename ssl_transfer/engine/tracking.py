"""What is kept of a run: `metrics.jsonl` always, and wandb when asked; no other file knows it."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .checkpoint import write_text
from .runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where metrics go beside `metrics.jsonl`, which always has them all."""

    wandb: Literal["off", "auto", "offline", "online"] = "off"
    """Weights & Biases: off; offline (files under the run's folder, for `wandb sync`); online (needs a login); auto:
    online where a login is found, otherwise offline."""
    project: str = "ssl_transfer"
    """wandb's project. Only read when wandb is not off."""


class Tracker:
    """Writes metrics on rank 0. Values are Python floats, so one read back equals the one written.

    `group`, `job_type` and `title` (by default the folder's name) are how wandb shows the run.
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
        self._run: Any = None
        self._path = path
        self._active = runtime.is_main
        if self._active:
            name = title or path.parent.name
            self._run = _begin(config, path.parent, settings, name=name, group=group, job_type=job_type)

    def log(self, record: dict[str, Any]) -> None:
        """Append one record: a line of `metrics.jsonl`, flushed, so that a killed run keeps it."""
        if not self._active:
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._run is not None:
            prefix = "/".join(str(record[key]) for key in ("phase", "split") if key in record)
            numbers = {key: value for key, value in record.items() if isinstance(value, (int, float))}
            self._run.log({f"{prefix}/{key}" if key not in ("step", "epoch") else key: v for key, v in numbers.items()})

    def summarize(self, values: dict[str, float]) -> None:
        """Let wandb's table of runs show these; `result.json` has them in any case."""
        if self._run is not None:
            self._run.summary.update(values)

    def close(self) -> None:
        """End the wandb run, if there is one."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _begin(
    config: TrackingConfig, folder: Path, settings: dict[str, Any], *, name: str, group: str, job_type: str
) -> Any:
    """A run of wandb, its files under `folder`; None where it is off."""
    if config.wandb == "off":
        return None
    import wandb

    mode = config.wandb
    if mode == "auto":
        mode = "online" if wandb.login(prompt=False) else "offline"
    return wandb.init(
        project=config.project,
        dir=str(folder),
        name=name,
        group=group,
        job_type=job_type,
        config=settings,
        mode=mode,
        # The run before may have failed in this process without an end.
        reinit="finish_previous",
        settings=wandb.Settings(silent=True),
    )


def publish(
    config: TrackingConfig,
    folder: Path,
    settings: dict[str, Any],
    *,
    job_type: str,
    summary: dict[str, float],
    files: Sequence[Path],
) -> None:
    """Show in wandb what a group of runs came to: a run of its own with a summary, and files as an artifact.

    Args:
        config: where to; nothing is done where wandb is off.
        folder: of the group, whose name is the group's.
        settings: of all.
        job_type: which stage.
        summary: numbers by name.
        files: the report and the tables.
    """
    run = _begin(config, folder, settings, name=folder.name, group=folder.name, job_type=job_type)
    if run is None:
        return
    import wandb

    run.summary.update(summary)
    # wandb takes no other characters in an artifact's name.
    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"{folder.name}-report"), type="report")
    for path in files:
        artifact.add_file(str(path))
    run.log_artifact(artifact)
    run.finish()


def flush(path: Path) -> None:
    """Wait until the disk has all lines."""
    if path.is_file():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def drop_after(path: Path, phase: str, step: int) -> None:
    """Forget the lines of `phase` after `step`: a resumed run writes them again, and each stands once.

    A line that was cut off by a kill is dropped too.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(record, dict):
            continue
        if record.get("phase") != phase or record.get("step", 0) <= step:
            kept.append(line)
    write_text(path, "".join(f"{line}\n" for line in kept))
