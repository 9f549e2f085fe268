"""Run a stage from its settings to its result: finished runs, dry run, folder, tracker, introduction.

pretrain, transfer, adapt and distill share this template. Each states its identity (`Stage`) as soon as its images are
loaded, and builds its model (`Prepared`) only where the run has not finished.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.runs.run_folder import RunFolder, check_held
from ssl_transfer.engine.runs.seal import check_whole, held_result
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig, drop_after

from . import dry_run
from .run_config import VOLATILE, Followed

VOLATILE_WEIGHTS = ("init", "imagenet_weights")
"""Settings that name the place of weights: the same weights may be moved, and a fingerprint identifies them."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run before its model is built: identity and caller."""

    name: str
    """pretrain, transfer, adapt or distill."""
    config: Followed
    settings: dict[str, Any]
    """The configuration as `config.yaml` keeps it."""
    fingerprints: dict[str, str]
    """Fingerprints of images and weights, by setting."""
    volatile: tuple[str, ...] = VOLATILE_WEIGHTS
    """Settings that may change between two starts, beside those of every stage."""
    runtime: Runtime
    """Device and processes, shared by the stages of one process."""
    group: str
    """wandb's group."""
    title: str
    """wandb's name of the run; empty: that of its folder."""
    quiet: bool
    """Print nothing but the progress bar, for a run of many; a finished run then returns before its model is built."""

    @property
    def identity(self) -> dict[str, Any]:
        """Arguments of `RunFolder` that identify the run."""
        return {
            "settings": self.settings,
            "identity": self.fingerprints,
            "volatile": (*VOLATILE, *self.volatile),
        }


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run whose model is built."""

    output: Path
    introduction: str
    """Printed before the training: images, model, initialisation."""
    work: Callable[[RunFolder, Tracker], dict[str, Any]]
    """Train, measure and export; returns the result."""
    describe: Callable[[dict[str, Any], Path, Runtime], None]
    """Print a result."""
    clean_up: Callable[[Path, dict[str, Any]], None] = lambda _, __: None
    """Called with the folder and the result, once the result is written."""


def runtime_for(config: Followed, runtime: Runtime | None) -> Runtime:
    """Return the caller's runtime, or start one with the precision of the configuration."""
    return runtime or runtimes.start(config.mixed_precision, deterministic=config.deterministic)


def run_stage(stage: Stage, prepare: Callable[[], Prepared]) -> dict[str, Any]:
    """Run a stage, resume it, or return the result of the finished run.

    Args:
        stage: identity and caller.
        prepare: builds the model; not called where a quiet run has finished.

    Raises:
        InputError: the folder holds another run.
        RehearsedError: a dry run has ended.
    """
    output = stage.config.output
    if stage.quiet and output is not None and not stage.config.fresh and held_result(output) is not None:
        with RunFolder(output, runtime=stage.runtime, fresh=False, **stage.identity) as folder:
            if folder.result is not None:
                return folder.result
    prepared = prepare()
    if stage.config.dry_run:
        _rehearse(stage, prepared)
    return _run(stage, prepared)


def _run(stage: Stage, prepared: Prepared) -> dict[str, Any]:
    config, output, runtime = stage.config, prepared.output, stage.runtime
    with RunFolder(output, runtime=runtime, fresh=config.fresh, **stage.identity) as folder:
        result = folder.result
        if result is not None:
            check_whole(folder.path)
            _say(stage, f"{output}: finished before; nothing to do (--fresh starts over)")
        else:
            _say(stage, prepared.introduction)
            names = {"group": stage.group, "job_type": stage.name, "title": stage.title}
            with Tracker(folder.metrics, config.tracking, runtime, settings=stage.settings, **names) as tracker:
                result = prepared.work(folder, tracker)
            folder.finish(result)
        if not stage.quiet:
            prepared.describe(result, output, runtime)
    prepared.clean_up(output, result)
    return result


def _rehearse(stage: Stage, prepared: Prepared) -> None:
    """Rehearse the run in a temporary folder, and end with its plan."""
    config, output = stage.config, prepared.output
    if not config.fresh:
        check_held(output, **stage.identity)
    rehearsed = replace(config, dry_run=False, fresh=False, tracking=TrackingConfig())

    def rehearse(folder: Path) -> object:
        return _run(replace(stage, config=rehearsed, quiet=True), replace(prepared, output=folder))

    dry_run.single(output, stage.settings, prepared.introduction, stage.runtime, rehearse, fresh=config.fresh)


def _say(stage: Stage, text: str) -> None:
    if not stage.quiet:
        stage.runtime.say(*text.split("\n"))


def log_start(folder: RunFolder, tracker: Tracker, first: str, runtime: Runtime, measured: dict[str, float]) -> None:
    """Log the measures before any training under the first phase's name, in place of those of a killed start."""
    if runtime.is_main:
        drop_after(folder.metrics, first, -1)
    tracker.log({"phase": first, "epoch": 0, "step": 0, "split": "validation", **measured})
