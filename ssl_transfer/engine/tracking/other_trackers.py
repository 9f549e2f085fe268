"""Log to TensorBoard and MLflow through Accelerate's classes; a failure never stops a run.

TensorBoard writes its event files below the run's folder; MLflow goes where MLFLOW_TRACKING_URI says, without it into a
database in that folder.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssl_transfer.engine.config import flatten
from ssl_transfer.engine.printable import one_line
from ssl_transfer.engine.redaction import redacted, redacted_all

from .wandb_run import Guard, Names, TrackingConfig, named


class Others:
    """Trackers of `TrackingConfig.also`, each under a guard of its own."""

    def __init__(self, config: TrackingConfig, folder: Path, settings: dict[str, Any], names: Names) -> None:
        self._held: list[tuple[Guard, Any]] = []
        self._step = 0
        for name in dict.fromkeys(config.also):
            guard, found = Guard(name, folder), list[Any]()
            begin = _BEGIN[name]

            def start(found: list[Any] = found, begin: Callable[..., Any] = begin) -> None:
                tracker = begin(config, folder, one_line(redacted(names.name)))
                tracker.start()
                found.append(tracker)
                tracker.store_init_configuration(
                    {key: str(value) for key, value in flatten(redacted_all(settings)).items()}
                )

            guard.call("begin", start)
            self._held += [(guard, tracker) for tracker in found]

    def log(self, record: dict[str, Any]) -> None:
        """Log a line of `metrics.jsonl` under wandb's names; a line without a step gets that of the line before."""
        self._step = step = record.get("step", self._step)
        values = {key: value for key, value in named(record).items() if key not in ("step", "epoch")}
        for guard, tracker in self._held:
            guard.call("log", lambda tracker=tracker: tracker.log(values, step=step))  # type: ignore[misc]

    def finish(self, *, failed: bool) -> None:
        """Flush and end all trackers. A failed one is ended too: MLflow begins no run while another is open."""
        for guard, tracker in self._held:
            guard.call("end", lambda tracker=tracker: _end(tracker, failed), always=True)  # type: ignore[misc]


def _end(tracker: Any, failed: bool) -> None:
    if failed and tracker.name == "mlflow":
        import mlflow

        # Accelerate would call the run finished.
        mlflow.end_run("FAILED")
    tracker.finish()


def _tensorboard(_: TrackingConfig, folder: Path, name: str) -> Any:
    from accelerate.tracking import TensorBoardTracker

    # What an earlier start of the run wrote no longer counts: its lines come again.
    return TensorBoardTracker(name.replace("/", "-"), logging_dir=str(folder / "tensorboard"), purge_step=0)


def _mlflow(config: TrackingConfig, folder: Path, name: str) -> Any:
    from accelerate.tracking import MLflowTracker

    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(folder / 'mlflow.db').absolute()}")
    return MLflowTracker(experiment_name=config.project, run_name=name)


_BEGIN: dict[str, Callable[[TrackingConfig, Path, str], Any]] = {"tensorboard": _tensorboard, "mlflow": _mlflow}
