"""The only training loop: objective, optimiser, batches, steps. It trains every method and every transfer phase."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_transfer.engine.console import progress
from ssl_transfer.engine.console.signals import Requests
from ssl_transfer.engine.distributed import collectives, device_memory
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import DivergedError, InputError, StoppedError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.runs.checkpoint_files import StateFiles
from ssl_transfer.engine.tracking import tracker as tracking
from ssl_transfer.engine.training.gradients import check_accumulation
from ssl_transfer.engine.training.precision import refused_where_wrong
from ssl_transfer.engine.training.sync_batch_norm import synchronized

from . import dry_run, energy
from .early_stopping import Best, Stopper, StoppingConfig, Watched
from .monitor import Monitor, read
from .nonfinite import named
from .objective import Batches, Objective
from .stepper import Steps
from .train_state import REMEDY, State


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a training cost, and how it ended."""

    steps: int
    """Optimiser steps that were taken: fewer than planned where it stopped early."""
    images_seen: int
    seconds: float
    """Wall time, evaluation included, over every start of the run."""
    peak_memory_mb: float
    """CUDA: the most that tensors held. CPU: the most that the whole process held resident."""
    energy_joules: float | None = None
    """What the sensors counted (`energy`); None without one."""
    stopped_early: bool = False
    """Whether validation no longer improved before its last epoch."""
    best_epoch: int | None = None
    """The epoch, from 1, whose weights were kept; None where those of the last step were."""


def train(
    objective: Objective,
    groups: list[dict[str, object]],
    batches: Batches,
    *,
    optimizer: OptimizerConfig,
    epochs: int,
    seed: int,
    phase: str,
    runtime: Runtime,
    tracker: tracking.Tracker,
    states: StateFiles | None = None,
    metrics_path: Path | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_every: int = 1,
    watched: Watched | None = None,
    stopping: StoppingConfig = StoppingConfig(),
    noting: Sequence[Stopper] = (),
    monitor: Monitor | None = None,
) -> Summary:
    """Train `objective` for `epochs`, going on from the newest of `states` when there is one.

    A step whose loss is not finite is undone and counted. Where a signal asks the program to leave, the state is saved
    first. Afterwards the objective holds the last weights, or their moving average (`optimizer.ema_decay`), or with
    `stopping.patience` the best that an evaluation found. Nothing is remembered from one training to the next.

    Args:
        objective: trained in place; it is on the runtime's device afterwards.
        groups: parameter groups with their learning rates (`optim.parameter_groups`).
        batches: the order is a function of the epoch, so a resumed training sees what it would have seen.
        optimizer: its rate is the groups' own; all that concerns the steps is read here.
        epochs: passes over the batches, at least 1; the schedule is laid over all of them.
        seed: reseeds torch before every step, for dropout and the like, so that these do not depend on history.
        phase: its name in the log.
        runtime: device and processes.
        tracker: where metrics go.
        states: where the state is saved and found; None saves nothing.
        metrics_path: the tracker's file, from which lines after the resumed step are dropped.
        evaluate: metrics of the moment (split `validation`), called on every process after each `evaluate_every`
            epochs and at the end; it must leave the objective as it found it.
        evaluate_every: see `evaluate`.
        watched: the metric of `evaluate` by which the plateau schedule and stopping go.
        stopping: when to end before the last epoch.
        noting: further stoppers, which keep the best weights by metrics of their own and end nothing.
        monitor: what looks at single steps and at evaluations; its rows get the split `alarm`.

    Raises:
        DivergedError: more losses were not finite than may be, or the weights are not; the last saved state is finite.
        InputError: something is asked for that needs a watched metric and there is none; micro-batches that would
            train something else; a batch that does not fit into memory.
        StoppedError: several processes were asked to leave.
    """
    batches, epochs, evaluate = dry_run.shortened(phase, groups, batches, epochs, evaluate, evaluate_every, runtime)
    watching = stopping.patience > 0 or optimizer.schedule == "plateau"
    if watching and (watched is None or evaluate is None):
        raise InputError(
            f"{phase}: early stopping and the schedule plateau go by a metric of labelled validation images, and none "
            "is watched here. Take another --optimizer.schedule and no --stopping.patience, or give such images."
        )
    check_accumulation(objective.train(), optimizer.accumulate, runtime)
    steps = Steps(
        objective,
        groups,
        optimizer,
        num_steps=epochs * batches.steps_per_epoch,
        seed=seed,
        phase=phase,
        higher_is_better=watched is not None and watched.higher_is_better,
        runtime=runtime,
    )
    stopper = Stopper(patience=stopping.patience, min_delta=stopping.min_delta, watched=watched)
    best = Best(watched if evaluate is not None and states is not None else None)
    meter = energy.meter(runtime.device, num_processes=runtime.num_processes)
    parts = {**steps.parts(), "stopper": stopper, "best": best, "energy": meter}
    parts |= {f"noting {number}": one for number, one in enumerate(noting)}
    if monitor is not None:
        parts["monitor"] = monitor
    state = State(objective, parts, steps.tally, states=states, metrics=metrics_path, phase=phase, runtime=runtime)
    steps.done = state.restore()
    if 0 < steps.done < steps.num_steps and not stopper.over:
        runtime.say(f"{phase}: going on after step {steps.done} of {steps.num_steps}")
    if metrics_path is not None and runtime.is_main:
        tracking.drop_after(metrics_path, phase, steps.done)
    device_memory.reset_peak(runtime.device)
    wrapped, shown, shown_step = steps.wrapped, time.monotonic(), steps.done

    def log(epoch: int, split: str, values: dict[str, Any]) -> None:
        tracker.log({"phase": phase, "epoch": epoch + 1, "step": steps.done, "split": split, **values})

    def evaluate_after(epoch: int) -> dict[str, float]:
        collectives.broadcast_buffers(objective)
        wrapped.eval()
        with steps.average.applied():
            found = evaluate() if evaluate is not None else {}
            if watching and watched is not None:
                # Every process decides alike: by rank 0's value, to the bit.
                value = float(runtime.from_main(repr(watched.value(found))))
                steps.rates.observe(value)
                stopper.observe(value, epoch + 1, objective)
            for one in noting:
                if one.watched is not None:
                    one.observe(float(runtime.from_main(repr(one.watched.value(found)))), epoch + 1, objective)
        wrapped.train()
        return found

    def look(epoch: int, values: dict[str, float]) -> None:
        if monitor is not None and (found := monitor.look(steps.done, values)):
            log(epoch, "alarm", found)

    def skipped(epoch: int, number: int) -> None:
        images, count = runtime.gathered(batches.names(epoch, number)), steps.skips.count
        log(epoch, "skipped", {"count": count, "images": images})
        what = f"{phase}: the loss of step {steps.done} (epoch {epoch + 1}) is not finite"
        if not steps.skips.too_many:
            runtime.warn(f"warning: {what}; skipped, {count} of at most {steps.skips.limit}. {named(images)}")
            return
        raise DivergedError(
            f"{what}, and --optimizer.skip-limit {steps.skips.limit} allows no further step to be skipped. "
            f"{named(images)} {state.last_good} {REMEDY}"
        )

    def leave() -> None:
        state.save(steps.done)
        kept = "" if states is None else "; its state is saved"
        runtime.warn(f"{phase}: asked to stop after step {steps.done} of {steps.num_steps}{kept}.")
        if requests.number is not None:
            requests.obey(requests.number)
        if runtime.num_processes > 1:
            # Somebody of them leaves, and nobody goes on without the others.
            raise StoppedError(signal.SIGTERM)

    with (
        _released(runtime),
        refused_where_wrong(objective, runtime),
        synchronized(objective, wanted=optimizer.sync_batch_norm, runtime=runtime),
        Requests(patient=runtime.num_processes > 1) as requests,
        progress.bar(phase, steps.num_steps, active=runtime.is_main) as bar,
    ):

        def asked() -> tuple[bool, bool]:
            return requests.number is not None, state.due

        for epoch in range(steps.done // batches.steps_per_epoch, epochs):
            if stopper.over:
                break
            stop = due = False
            first = steps.done % batches.steps_per_epoch
            for number, batch in enumerate(batches.epoch(epoch, first), start=first):
                output, answer = steps.take(batch, asked)
                if not answer.finite:
                    skipped(epoch, number)
                elif monitor is not None and steps.done % monitor.every == 0:
                    look(epoch, read(output.loss, output.metrics, 1, runtime))
                stop, due = stop or answer.stop, due or answer.due
                if number + 1 == batches.steps_per_epoch:
                    # The end of the epoch comes first.
                    continue
                if stop:
                    leave()
                elif due:
                    state.save(steps.done)
                stop = due = False
                now = time.monotonic()
                if now - shown > 1.0:
                    speed = (steps.done - shown_step) * batches.batch_size / (now - shown)
                    bar.update(steps.done, f"loss {float(output.loss):.4f}  {speed:,.0f} images/s")
            # The reading below waits for the device once an epoch; between steps only a monitor does, now and then.
            means = steps.tally.close()
            if not means and epoch + 1 == epochs:
                raise DivergedError(f"{phase}: no loss of the last epoch is finite. {state.last_good} {REMEDY}")
            meter.observe()
            now = time.monotonic()
            speed = (steps.done - shown_step) * batches.batch_size / max(now - shown, 1e-9)
            bar.update(steps.done, f"loss {means.get('loss', math.nan):.4f}  {speed:,.0f} images/s")
            costs = {"learning_rate": steps.rate, "images_per_second": speed}
            if steps.skips.count:
                costs["skipped_steps"] = float(steps.skips.count)
            log(epoch, "train", {**costs, **means})
            shown, shown_step, improved = now, steps.done, False
            if evaluate is not None and ((epoch + 1) % evaluate_every == 0 or epoch + 1 == epochs):
                found = evaluate_after(epoch)
                log(epoch, "validation", found)
                look(epoch, found)
                improved = best.improved(found, runtime)
                shown = time.monotonic()
            if stopper.over or (stopper.active and epoch + 1 == epochs):
                log(epoch, "stopping", {"stopped_early": float(epoch + 1 < epochs), **stopper.describe()})
                if evaluate is not None:
                    # The curve ends with what the training leaves.
                    stopper.restore(objective)
                    wrapped.eval()
                    log(epoch, "validation", evaluate())
                    wrapped.train()
            answer = steps.agree(asked)
            if improved:
                state.save(steps.done, best=True)
            if stop or answer.stop:
                leave()
            elif (due or answer.due) and epoch + 1 < epochs and not stopper.over:
                state.save(steps.done)
        state.save(steps.done)
        collectives.broadcast_buffers(objective)
        steps.average.write()
        stopper.restore(objective)
        wrapped.eval()
    return Summary(
        steps=steps.done,
        images_seen=steps.done * batches.batch_size,
        seconds=state.seconds,
        peak_memory_mb=device_memory.peak_mb(runtime.device),
        energy_joules=meter.joules,
        stopped_early=stopper.over and steps.done < steps.num_steps,
        best_epoch=stopper.best_epoch,
    )


@contextlib.contextmanager
def _released(runtime: Runtime) -> Iterator[None]:
    """Afterwards the accelerator holds no wrapper of this training: the next one trains other parameters."""
    try:
        yield
    finally:
        runtime.accelerator.free_memory()
