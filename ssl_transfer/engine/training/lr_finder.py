"""The learning-rate finder: which peak learning rate an objective bears.

Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3: the rate is raised from step to
step until the loss explodes. The rate rises geometrically, the loss is smoothed, and the suggestion is a tenth of the
rate at which the smoothed loss is least (Howard and Gugger, fastai 2020): there the loss still falls, and a training
that stays at its peak rate for long is further from the edge than one step of the search was.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig, make_optimizer
from ssl_transfer.engine.randomness import reseed, seed_from
from ssl_transfer.engine.training.gradients import accumulate_gradient, check_accumulation
from ssl_transfer.engine.training.sync_batch_norm import synchronized

from .objective import Batch, Batches, Objective

SMOOTHING = 0.9
"""Share of the past in the smoothed loss: it looks back over about ten steps."""
EXPLOSION = 4.0
"""The search ends where the smoothed loss is so many times its least."""
SHARE = 0.1
"""The suggestion as a share of the rate at which the smoothed loss is least."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a search found."""

    suggestion: float
    """A peak learning rate for the group with the highest; the other groups keep their ratios to it."""
    least: float
    """The rate at which the smoothed loss was least."""
    exploded: bool
    """Whether the loss exploded within the range; if not, a higher rate might do as well."""
    rows: list[dict[str, float]]
    """The curve: `step` from 1, `learning_rate`, `loss`, `smoothed_loss`."""


def find_learning_rate(
    objective: Objective,
    groups: list[dict[str, Any]],
    batches: Batches,
    *,
    optimizer: OptimizerConfig,
    seed: int,
    runtime: Runtime,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
) -> Finding:
    """Train for a few steps with a rising rate, and leave everything as it was.

    Weights, buffers, gradients, modes, torch's random state and the precision's loss scale are restored to the bit,
    whatever happens. Schedule, warm-up and moving average are left out; what moves without gradients
    (`Objective.after_step`) stands still.

    Args:
        objective: as `loop.train` would get it.
        groups: parameter groups (`optim.parameter_groups`); only the ratios between their rates matter here.
        batches: from epoch 0 on, as many epochs as it takes.
        optimizer: which optimiser, clipping and micro-batches.
        seed: as in `loop.train`.
        runtime: device and processes, which all find the same.
        lowest: the first step's rate.
        highest: the last step's rate.
        steps: optimiser steps at most.

    Raises:
        InputError: an impossible range; the loss falls at no rate.
    """
    if not 0 < lowest < highest or steps < 10:
        raise InputError(
            f"lowest {lowest}, highest {highest}, steps {steps}: rates above 0, the lowest below the highest, and at "
            "least 10 steps."
        )
    accelerator = runtime.accelerator
    with _restored(objective.to(runtime.device), runtime), contextlib.ExitStack() as norms:
        check_accumulation(objective.train(), optimizer.accumulate, runtime)
        wrapped = accelerator.prepare_model(objective)
        norms.enter_context(synchronized(objective, wanted=optimizer.sync_batch_norm, runtime=runtime))
        stepper = accelerator.prepare_optimizer(make_optimizer(optimizer, groups))
        top = max(group["lr"] for group in stepper.param_groups)
        ratios = [group["lr"] / top for group in stepper.param_groups]
        rows: list[dict[str, float]] = []
        average, exploded = 0.0, False
        for step, batch in enumerate(itertools.islice(_endless(batches), steps)):
            rate = lowest * (highest / lowest) ** (step / (steps - 1))
            for group, ratio in zip(stepper.param_groups, ratios, strict=True):
                group["lr"] = rate * ratio
            reseed(seed_from(seed, step, runtime.process_index), runtime.device)
            output = accumulate_gradient(wrapped, batch, optimizer.accumulate, accelerator)
            loss = float(runtime.mean(output.loss))
            average = SMOOTHING * average + (1.0 - SMOOTHING) * loss
            # An average that starts from nothing is too small by this much (Kingma and Ba 2015, section 3).
            smoothed = average / (1.0 - SMOOTHING ** (step + 1))
            exploded = not math.isfinite(smoothed) or (
                len(rows) > 0 and smoothed > EXPLOSION * min(row["smoothed_loss"] for row in rows)
            )
            if exploded:
                break
            rows.append({"step": step + 1, "learning_rate": rate, "loss": loss, "smoothed_loss": smoothed})
            if optimizer.clip_norm:
                accelerator.clip_grad_norm_(objective.parameters(), optimizer.clip_norm)
            stepper.step()
            stepper.zero_grad(set_to_none=True)
    return _suggest(rows, skipped=steps // 10, exploded=exploded)


def _suggest(rows: list[dict[str, float]], *, skipped: int, exploded: bool) -> Finding:
    """The rule above on a curve; its first steps, in which the average rests on one or two batches, are left out."""
    rows, curve = rows[skipped:], rows
    if not rows:
        raise InputError(
            f"The loss exploded within {len(curve)} steps. Search from a lower learning rate; if it is not finite at "
            "any, look at the images and the precision."
        )
    best = min(rows, key=lambda row: row["smoothed_loss"])
    if best is rows[0]:
        raise InputError(
            f"The loss falls at no learning rate from {best['learning_rate']:.3g} on. Search from a lower one, with "
            "more steps, or with larger batches."
        )
    least = best["learning_rate"]
    return Finding(suggestion=SHARE * least, least=least, exploded=exploded, rows=curve)


def _endless(batches: Batches) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from batches.epoch(epoch)


@contextlib.contextmanager
def _restored(objective: Objective, runtime: Runtime) -> Iterator[None]:
    """Undo, after the `with` block, what it did to the objective, to torch's random state and to the accelerator."""
    held = {name: tensor.detach().clone() for name, tensor in _tensors(objective)}
    gradients = [(parameter, parameter.grad) for parameter in objective.parameters()]
    modes = [(module, module.training) for module in objective.modules()]
    scaler = runtime.accelerator.scaler
    scale = None if scaler is None else scaler.state_dict()
    for parameter, _ in gradients:
        parameter.grad = None
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for name, tensor in _tensors(objective):
                tensor.copy_(held[name])
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
        if scaler is not None:
            scaler.load_state_dict(scale)
        # Its wrapper and its optimiser must not outlive the search.
        runtime.accelerator.free_memory()


def _tensors(objective: Objective) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, those that a state_dict leaves out included."""
    yield from objective.named_parameters()
    yield from objective.named_buffers()
