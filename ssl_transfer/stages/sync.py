"""Send the logs of finished runs to wandb: `ssl-transfer sync`."""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.errors import FailedRunsError, InputError
from ssl_transfer.engine.runs.saved_run import SavedRun
from ssl_transfer.engine.terminal import say
from ssl_transfer.engine.tracking.tracker import TrackingConfig, publish, send
from ssl_transfer.engine.tracking.wandb_run import Taken
from ssl_transfer.evaluation.comparison.results import Results
from ssl_transfer.evaluation.comparison.summary_table import summary_numbers

_MOVED_ASIDE = re.compile(r"\.old-\d+$")


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """Publish in wandb the logs of a run, or of all runs below a folder. Each becomes a new run of wandb."""

    path: Annotated[str, *configuration.positional("RUN")] = ""
    """Folder of a run, or one that holds runs: a comparison with all of its own."""
    tracking: TrackingConfig = TrackingConfig(wandb="auto")
    """Destination: auto is online where a login is found, otherwise offline files under each run's folder."""


def sync(folder: Path, config: TrackingConfig) -> Counter[Taken]:
    """Publish all runs in and below a folder.

    Returns:
        Number of runs published online, and offline.

    Raises:
        InputError: there are none, or one has no readable settings.
        FailedRunsError: wandb did not take all of them.
    """
    runs = [path.parent for path in sorted(folder.rglob("metrics.jsonl")) if _is_run(path.parent, folder)]
    comparisons = [path.parent for path in sorted(folder.rglob("comparison.json")) if _is_run(path.parent, folder)]
    if not runs and not comparisons:
        raise InputError(f"{folder}: holds no run (no config.yaml beside a metrics.jsonl). Give the folder of one.")
    taken = [(run, send(config, run, SavedRun(run).settings)) for run in runs]
    taken += [(place, publish_comparison(config, Results.read(place))) for place in comparisons]
    failed = [str(place) for place, where in taken if not where]
    if failed:
        raise FailedRunsError(f"wandb has not all of {', '.join(failed)}. The same command tries all again.")
    return Counter(where for _, where in taken)


def publish_comparison(config: TrackingConfig, results: Results) -> Taken:
    """Publish a finished comparison to wandb; returns what `publish` does."""
    folder = results.folder
    # The page shows reconstructions of images.
    kinds = (".md", ".csv", ".png", *([".html"] if config.pictures else []))
    return publish(
        config,
        folder,
        SavedRun(folder).settings,
        job_type="compare",
        summary=summary_numbers(results),
        files=sorted(path for path in folder.iterdir() if path.suffix in kinds),
    )


def _is_run(place: Path, below: Path) -> bool:
    """Check for the folder of a run or a comparison, except those that --fresh moved aside."""
    aside = any(_MOVED_ASIDE.search(part) for part in place.relative_to(below).parts)
    return (place / "config.yaml").is_file() and not aside


def main(arguments: Sequence[str], program: str = "ssl-transfer sync") -> None:
    """Run `sync RUN [flags]`."""
    settings, rest = configuration.take_config(arguments)
    config = configuration.parse(SyncConfig, settings, rest, program=program, default=SyncConfig())
    folder = Path(config.path)
    if not config.path or not folder.is_dir():
        raise InputError(f"Which run? {config.path!r} is no folder; as in `ssl-transfer sync runs/demo`.")
    if config.tracking.wandb == "off":
        raise InputError("--tracking.wandb off would show nothing. There are auto, online and offline.")
    taken = sync(folder, config.tracking)
    if taken["online"]:
        say(f"{folder}: {counted(taken['online'], 'run')} in wandb")
    if taken["offline"]:
        again = f"`ssl-transfer sync {shlex.quote(str(folder))} --tracking.wandb online`"
        say(
            f"{folder}: {counted(taken['offline'], 'run')} written for wandb, offline: nothing was sent. After "
            f"`wandb login`, {again} sends what they logged."
        )
