"""The only training loop: objective, optimiser, batches, steps. It trains every method and every transfer phase."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from . import checkpoint, distributed, energy, memory, progress, tracking
from .averaging import WeightAverage
from .contract import Batch, Objective
from .errors import DivergedError, InputError
from .gradients import accumulate_gradient, check_accumulation
from .monitor import Monitor, read
from .optim import OptimizerConfig, make_optimizer
from .randomness import reseed, seed_from
from .rates import Rates
from .runtime import Runtime
from .stopping import Stopper, StoppingConfig, Watched
from .synchronized import synchronized

CHECKPOINT_SECONDS = 20.0
"""A running training saves its state when an epoch ends and at least so long has passed since it last did."""


class Batches(Protocol):
    """Where the loop gets its batches: `data.loaders.Loader` is one."""

    batch_size: int
    """Images per optimiser step over all processes."""
    steps_per_epoch: int

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This process's share of each batch of an epoch."""


class Stateful(Protocol):
    """What a checkpoint holds the state of."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and containers of them."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Go on from what `state_dict` gave."""


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
    state_path: Path | None = None,
    metrics_path: Path | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_every: int = 1,
    watched: Watched | None = None,
    stopping: StoppingConfig = StoppingConfig(),
    noting: Sequence[Stopper] = (),
    monitor: Monitor | None = None,
) -> Summary:
    """Train `objective` for `epochs`, going on from `state_path` when that holds a state.

    Afterwards the objective holds the last weights, or their moving average (`optimizer.ema_decay`), or with
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
        state_path: where the state is saved and found; None saves nothing.
        metrics_path: the tracker's file, from which lines after the resumed step are dropped.
        evaluate: metrics of the moment (split `validation`), called on every process after each `evaluate_every`
            epochs and at the end; it must leave the objective as it found it.
        evaluate_every: see `evaluate`.
        watched: the metric of `evaluate` by which the plateau schedule and stopping go.
        stopping: when to end before the last epoch.
        noting: further stoppers, which keep the best weights by metrics of their own and end nothing.
        monitor: what looks at single steps and at evaluations; its rows get the split `alarm`.

    Raises:
        DivergedError: the loss is not finite (the last saved state is from before).
        InputError: something is asked for that needs a watched metric and there is none; micro-batches that would
            train something else.
    """
    watching = stopping.patience > 0 or optimizer.schedule == "plateau"
    if watching and (watched is None or evaluate is None):
        raise InputError(
            f"{phase}: early stopping and the schedule plateau go by a metric of labelled validation images, and none "
            "is watched here. Take another --optimizer.schedule and no --stopping.patience, or give such images."
        )
    check_accumulation(objective.train(), optimizer.accumulate, runtime)
    accelerator = runtime.accelerator
    num_steps = epochs * batches.steps_per_epoch
    wrapped = accelerator.prepare_model(objective.to(runtime.device))
    stepper = accelerator.prepare_optimizer(make_optimizer(optimizer, groups))
    peaks = [group["lr"] for group in stepper.param_groups]
    rates = Rates(
        optimizer.schedule,
        num_steps=num_steps,
        warmup_steps=optimizer.warmup_steps,
        plateau_factor=optimizer.plateau_factor,
        plateau_patience=optimizer.plateau_patience,
        higher_is_better=watched is not None and watched.higher_is_better,
    )
    average = WeightAverage([one for group in stepper.param_groups for one in group["params"]], optimizer.ema_decay)
    stopper = Stopper(patience=stopping.patience, min_delta=stopping.min_delta, watched=watched)
    meter = energy.meter(runtime.device, num_processes=runtime.num_processes)
    stateful: dict[str, Stateful] = {"objective": objective, "optimizer": stepper, "rates": rates}
    stateful |= {"average": average, "stopper": stopper, "energy": meter}
    stateful |= {f"noting {number}": one for number, one in enumerate(noting)}
    if accelerator.scaler is not None:
        stateful["scaler"] = accelerator.scaler
    if monitor is not None:
        stateful["monitor"] = monitor
    step, seconds_before = _restore(stateful, state_path)
    if 0 < step < num_steps and not stopper.over:
        runtime.say(f"{phase}: going on after step {step} of {num_steps}")
    if metrics_path is not None and runtime.is_main:
        tracking.drop_after(metrics_path, phase, step)
    memory.reset_peak(runtime.device)

    started = saved = shown = time.monotonic()
    shown_step, losses = step, torch.zeros((), device=runtime.device)
    totals: dict[str, torch.Tensor] = {}

    def evaluate_after(epoch: int) -> dict[str, float]:
        distributed.broadcast_buffers(objective)
        wrapped.eval()
        with average.applied():
            found = evaluate() if evaluate is not None else {}
            if watching and watched is not None:
                # Every process decides alike: by rank 0's value, to the bit.
                value = float(runtime.from_main(repr(watched.value(found))))
                rates.observe(value)
                stopper.observe(value, epoch, objective)
            for one in noting:
                if one.watched is not None:
                    one.observe(float(runtime.from_main(repr(one.watched.value(found)))), epoch, objective)
        wrapped.train()
        return found

    def look(epoch: int, values: dict[str, float]) -> None:
        if monitor is not None and (found := monitor.look(step, values)):
            tracker.log({"phase": phase, "epoch": epoch, "step": step, "split": "alarm", **found})

    def save() -> None:
        if state_path is not None and runtime.is_main:
            state = {name: part.state_dict() for name, part in stateful.items()}
            seconds = seconds_before + time.monotonic() - started
            checkpoint.save_state(state_path, {**state, "step": step, "seconds": seconds})
        runtime.wait()

    norms = synchronized(objective, wanted=optimizer.sync_batch_norm, runtime=runtime)
    with norms, progress.bar(phase, num_steps, active=runtime.is_main) as bar:
        for epoch in range(step // batches.steps_per_epoch, epochs):
            if stopper.over:
                break
            for batch in batches.epoch(epoch):
                factor = rates.factor(step)
                for group, peak in zip(stepper.param_groups, peaks, strict=True):
                    group["lr"] = peak * factor
                reseed(seed_from(seed, step, runtime.process_index), runtime.device)
                loss, metrics = accumulate_gradient(wrapped, batch, optimizer.accumulate, accelerator)
                if optimizer.clip_norm:
                    accelerator.clip_grad_norm_(objective.parameters(), optimizer.clip_norm)
                stepper.step()
                stepper.zero_grad(set_to_none=True)
                step += 1
                objective.after_step(step / num_steps)
                average.update()
                losses += loss
                for name, value in metrics.items():
                    totals[name] = totals.get(name, 0.0) + value
                if monitor is not None and step % monitor.every == 0:
                    look(epoch + 1, read(loss, metrics, 1, runtime))
                now = time.monotonic()
                if now - shown > 1.0 and step % batches.steps_per_epoch:
                    speed = (step - shown_step) * batches.batch_size / (now - shown)
                    bar.update(step, f"loss {float(loss):.4f}  {speed:,.0f} images/s")
            # The reading below waits for the device once an epoch; between steps only a monitor does, now and then.
            means = read(losses, totals, batches.steps_per_epoch, runtime)
            mean_loss = means["loss"]
            if not math.isfinite(mean_loss):
                accelerator.free_memory()
                raise DivergedError(
                    f"{phase}: the loss is {mean_loss} in epoch {epoch + 1} (up to step {step}). "
                    "Lower the learning rate, lengthen the warm-up or clip (optimizer.clip-norm 1)."
                )
            meter.observe()
            now = time.monotonic()
            speed = (step - shown_step) * batches.batch_size / max(now - shown, 1e-9)
            bar.update(step, f"loss {mean_loss:.4f}  {speed:,.0f} images/s")
            position = {"phase": phase, "epoch": epoch + 1, "step": step}
            costs = {"learning_rate": max(peaks) * factor, "images_per_second": speed}
            tracker.log({**position, "split": "train", **costs, **means})
            shown, shown_step, losses, totals = now, step, torch.zeros_like(losses), {}
            if evaluate is not None and ((epoch + 1) % evaluate_every == 0 or epoch + 1 == epochs):
                found = evaluate_after(epoch + 1)
                tracker.log({**position, "split": "validation", **found})
                look(epoch + 1, found)
                shown = time.monotonic()
            if stopper.over or (stopper.active and epoch + 1 == epochs):
                early = {"stopped_early": float(epoch + 1 < epochs)}
                tracker.log({**position, "split": "stopping", **early, **stopper.describe()})
                if evaluate is not None:
                    # The curve ends with what the training leaves.
                    stopper.restore(objective)
                    wrapped.eval()
                    tracker.log({**position, "split": "validation", **evaluate()})
                    wrapped.train()
            # Every process decides alike: one clock that is due is enough.
            due = torch.tensor(float(time.monotonic() - saved > CHECKPOINT_SECONDS), device=runtime.device)
            if runtime.mean(due) > 0.0:
                save()
                saved = time.monotonic()
        save()
    distributed.broadcast_buffers(objective)
    average.write()
    stopper.restore(objective)
    wrapped.eval()
    # Wrappers of a finished phase must not outlive it: the next phase trains other parameters.
    accelerator.free_memory()
    return Summary(
        steps=step,
        images_seen=step * batches.batch_size,
        seconds=seconds_before + time.monotonic() - started,
        peak_memory_mb=memory.peak_mb(runtime.device),
        energy_joules=meter.joules,
        stopped_early=stopper.over and step < num_steps,
        best_epoch=stopper.best_epoch,
    )


def _restore(stateful: Mapping[str, Stateful], state_path: Path | None) -> tuple[int, float]:
    """Load each part's state from the file, if there is one: the steps and the seconds it stands for.

    Raises:
        InputError: the file was written with other parts.
    """
    if state_path is None or not state_path.is_file():
        return 0, 0.0
    state = checkpoint.load_state(state_path)
    missing = stateful.keys() - state.keys()
    if missing:
        raise InputError(
            f"{state_path}: holds no state of {', '.join(sorted(missing))}; it was saved by another version or with "
            "another precision. Start over with --fresh."
        )
    for name, part in stateful.items():
        part.load_state_dict(state[name])
    return state["step"], state["seconds"]
