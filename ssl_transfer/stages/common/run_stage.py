"""A run that takes a model through a plan, from its folder to what it leaves: transfer and distillation are such runs.

Validation chooses between the phases, by accuracy and among equals by log-loss; then the test images are read, once,
for all. Adaptation, which chooses otherwise, shares the folder and the log (`within`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.runs.run_folder import RunFolder, check_held, held_result
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig, drop_after
from ssl_transfer.stages.common import dry_run
from ssl_transfer.stages.common.run_config import VOLATILE, Followed

VOLATILE_WEIGHTS = ("init", "imagenet_weights")
"""Settings that say where weights lie: the same may lie elsewhere, and a fingerprint tells which they are."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a run is: what tells it from others, and what is said of it."""

    stage: str
    """pretrain, transfer, adapt or distill."""
    config: Followed
    settings: dict[str, Any]
    """The configuration as it is kept beside the result."""
    output: Path
    fingerprints: dict[str, str]
    """Of data and weights, by name."""
    volatile: tuple[str, ...] = VOLATILE_WEIGHTS
    """Settings that may change between two starts, beside those of every stage."""
    introduction: str
    group: str
    title: str


def finished(
    config: Followed,
    settings: dict[str, Any],
    fingerprints: dict[str, str],
    runtime: Runtime,
    volatile: tuple[str, ...] = VOLATILE_WEIGHTS,
) -> dict[str, Any] | None:
    """The result of one run of many that has finished, so that nothing is built that nobody trains; None: it has not.

    The arguments are those of its `Identity`.
    """
    output = config.output
    if output is None or config.fresh or held_result(output) is None:
        return None
    volatile = (*VOLATILE, *volatile)
    with RunFolder(output, settings, runtime, identity=fingerprints, fresh=False, volatile=volatile) as folder:
        return folder.result


def within(
    identity: Identity,
    runtime: Runtime,
    work: Callable[[RunFolder, Tracker], dict[str, Any]],
    describe: Callable[[dict[str, Any], Path, Runtime], None],
    *,
    quiet: bool,
) -> dict[str, Any]:
    """Do a run's work in its folder, or go on with it, or return the result of the finished run.

    Args:
        identity: see its fields.
        runtime: of the run.
        work: trains, measures and leaves what there is to leave; it returns the result.
        describe: says a result.
        quiet: say nothing but the progress bar.
    """
    config, output, volatile = identity.config, identity.output, (*VOLATILE, *identity.volatile)
    settings, same = identity.settings, identity.fingerprints
    if config.dry_run:
        if not config.fresh:
            check_held(output, settings, same, volatile)
        rehearsed = replace(config, dry_run=False, fresh=False, tracking=TrackingConfig())

        def rehearse(folder: Path) -> object:
            own = replace(identity, config=rehearsed, output=folder)
            return within(own, runtime, work, describe, quiet=True)

        dry_run.single(output, settings, identity.introduction, runtime, rehearse, fresh=config.fresh)
    with RunFolder(output, settings, runtime, identity=same, fresh=config.fresh, volatile=volatile) as folder:
        if folder.result is not None:
            if not quiet:
                runtime.say(f"{output}: finished before; nothing to do (--fresh starts over)")
                describe(folder.result, output, runtime)
            return folder.result
        if not quiet:
            runtime.say(identity.introduction)
        named_so = {"group": identity.group, "job_type": identity.stage, "title": identity.title}
        with Tracker(folder.metrics, config.tracking, runtime, settings=settings, **named_so) as tracker:
            result = work(folder, tracker)
        folder.finish(result)
        if not quiet:
            describe(result, output, runtime)
        return result


def log_start(folder: RunFolder, tracker: Tracker, first: str, runtime: Runtime, measured: dict[str, float]) -> None:
    """Log what was measured before any training, in place of what a killed start logged."""
    if runtime.is_main:
        drop_after(folder.metrics, first, -1)
    tracker.log({"phase": first, "epoch": 0, "step": 0, "split": "validation", **measured})
