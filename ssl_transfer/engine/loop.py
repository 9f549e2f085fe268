"""The only training loop: objective, optimiser, batches, steps. It trains every method and every transfer phase."""

import contextlib
import math
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from . import checkpoint, distributed, tracking
from .contract import Batch, Objective
from .errors import InputError
from .optim import OptimizerConfig, make_optimizer, warmup_cosine
from .randomness import reseed, seed_from
from .runtime import Runtime

CHECKPOINT_SECONDS = 20.0
"""A running training saves its state when an epoch ends and at least so long has passed since it last did."""
_PROCESS = Path("/proc/self")
"""Linux's files about this process; elsewhere absent."""


class Batches(Protocol):
    """Where the loop gets its batches: `data.loaders.Loader` is one."""

    batch_size: int
    """Images per optimiser step over all processes."""
    steps_per_epoch: int

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This process's share of each batch of an epoch."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a training cost."""

    steps: int
    images_seen: int
    seconds: float
    """Wall time, evaluation included, over every start of the run."""
    peak_memory_mb: float
    """CUDA: the most that tensors held. CPU: the most that the whole process held resident."""


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
) -> Summary:
    """Train `objective` for `epochs`, going on from `state_path` when that holds a state.

    Args:
        objective: trained in place; it is on the runtime's device afterwards.
        groups: parameter groups with their learning rates (`optim.parameter_groups`).
        batches: the order is a function of the epoch, so a resumed training sees what it would have seen.
        optimizer: its rate is the groups' own; warm-up and clipping are read here.
        epochs: passes over the batches, at least 1.
        seed: reseeds torch before every step, for dropout and the like, so that these do not depend on history.
        phase: its name in the log.
        runtime: device and processes.
        tracker: where metrics go.
        state_path: where the state is saved and found; None saves nothing.
        metrics_path: the tracker's file, from which lines after the resumed step are dropped.
        evaluate: metrics of the moment (split `validation`), called on every process after each `evaluate_every`
            epochs and at the end; it must leave the objective as it found it.
        evaluate_every: see `evaluate`.

    Raises:
        InputError: the loss is not finite; the last saved state is from before.
    """
    accelerator = runtime.accelerator
    num_steps = epochs * batches.steps_per_epoch
    wrapped = accelerator.prepare_model(objective.to(runtime.device))
    stepper = accelerator.prepare_optimizer(make_optimizer(optimizer, groups))
    rates = [group["lr"] for group in stepper.param_groups]
    step, seconds_before = 0, 0.0
    if state_path is not None and state_path.is_file():
        state = checkpoint.load_state(state_path)
        objective.load_state_dict(state["objective"])
        stepper.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None and "scaler" in state:
            accelerator.scaler.load_state_dict(state["scaler"])
        step, seconds_before = state["step"], state["seconds"]
        if step < num_steps:
            runtime.say(f"{phase}: going on after step {step} of {num_steps}")
    if metrics_path is not None and runtime.is_main:
        tracking.drop_after(metrics_path, phase, step)
    _reset_peak_memory(runtime.device)

    started = saved = shown = time.monotonic()
    shown_step, losses = step, torch.zeros((), device=runtime.device)
    totals: dict[str, torch.Tensor] = {}

    def evaluate_now() -> dict[str, float]:
        distributed.broadcast_buffers(objective)
        wrapped.eval()
        found = evaluate() if evaluate is not None else {}
        wrapped.train()
        return found

    def save() -> None:
        if state_path is not None and runtime.is_main:
            seconds = seconds_before + time.monotonic() - started
            state = {"objective": objective.state_dict(), "optimizer": stepper.state_dict()}
            if accelerator.scaler is not None:
                state["scaler"] = accelerator.scaler.state_dict()
            checkpoint.save_state(state_path, {**state, "step": step, "seconds": seconds})
        runtime.wait()

    with tracking.bar(phase, num_steps, active=runtime.is_main) as bar:
        wrapped.train()
        for epoch in range(step // batches.steps_per_epoch, epochs):
            for batch in batches.epoch(epoch):
                factor = warmup_cosine(step, num_steps, optimizer.warmup_steps)
                for group, rate in zip(stepper.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                reseed(seed_from(seed, step, runtime.process_index), runtime.device)
                loss, metrics = wrapped(batch)
                accelerator.backward(loss)
                if optimizer.clip_norm:
                    accelerator.clip_grad_norm_(objective.parameters(), optimizer.clip_norm)
                stepper.step()
                stepper.zero_grad(set_to_none=True)
                step += 1
                objective.after_step(step / num_steps)
                losses += loss.detach()
                for name, value in metrics.items():
                    totals[name] = totals.get(name, 0.0) + value
                now = time.monotonic()
                if now - shown > 1.0 and step % batches.steps_per_epoch:
                    rate = (step - shown_step) * batches.batch_size / (now - shown)
                    bar.update(step, f"loss {float(loss.detach()):.4f}  {rate:,.0f} images/s")
            # The reading below waits for the device once an epoch, and never between steps.
            names = sorted(totals)
            values = torch.stack([losses, *(totals[name] for name in names)]) / batches.steps_per_epoch
            mean_loss, *means = runtime.mean(values).tolist()
            if not math.isfinite(mean_loss):
                raise InputError(
                    f"{phase}: the loss is {mean_loss} in epoch {epoch + 1} (up to step {step}). "
                    "Lower the learning rate, lengthen the warm-up or clip (--optimizer.clip-norm 1)."
                )
            now = time.monotonic()
            rate = (step - shown_step) * batches.batch_size / max(now - shown, 1e-9)
            bar.update(step, f"loss {mean_loss:.4f}  {rate:,.0f} images/s")
            position = {"phase": phase, "epoch": epoch + 1, "step": step}
            costs = {"learning_rate": max(rates) * factor, "images_per_second": rate, "loss": mean_loss}
            tracker.log({**position, "split": "train", **costs, **dict(zip(names, means, strict=True))})
            shown, shown_step, losses, totals = now, step, torch.zeros_like(losses), {}
            if evaluate is not None and ((epoch + 1) % evaluate_every == 0 or epoch + 1 == epochs):
                tracker.log({**position, "split": "validation", **evaluate_now()})
                shown = time.monotonic()
            # Every process decides alike: one clock that is due is enough.
            due = torch.tensor(float(time.monotonic() - saved > CHECKPOINT_SECONDS), device=runtime.device)
            if runtime.mean(due) > 0.0:
                save()
                saved = time.monotonic()
        save()
    distributed.broadcast_buffers(objective)
    wrapped.eval()
    # Wrappers of a finished phase must not outlive it: the next phase trains other parameters.
    accelerator.free_memory()
    return Summary(
        steps=num_steps,
        images_seen=num_steps * batches.batch_size,
        seconds=seconds_before + time.monotonic() - started,
        peak_memory_mb=_peak_memory_mb(runtime.device),
    )


def _reset_peak_memory(device: torch.device) -> None:
    """Start measuring anew, so that a run does not show what another run of the same process took."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _PROCESS.is_dir():
        # Writing 5 brings the high-water mark down to what is resident now (man 5 proc).
        with contextlib.suppress(OSError):
            (_PROCESS / "clear_refs").write_text("5")


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if _PROCESS.is_dir():
        lines = (_PROCESS / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
