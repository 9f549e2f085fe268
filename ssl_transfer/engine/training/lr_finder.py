"""Find a peak learning rate with a learning-rate range test.

Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3: raise the rate from step to step
until the loss explodes. The rate rises geometrically and the loss is smoothed. The suggestion is a tenth of the rate at
which the smoothed loss is least (Howard and Gugger, fastai 2020). There the loss still falls, and a training that stays
at its peak rate keeps a distance from the explosion.
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
from ssl_transfer.engine.distributed.sync_batch_norm import synchronized
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig, make_optimizer
from ssl_transfer.engine.randomness import reseed, seed_from

from .gradients import accumulate_gradient, check_accumulation
from .objective import Batch, Batches, Objective

SMOOTHING = 0.9
"""Share of the past in the smoothed loss, an average over about ten steps."""
EXPLOSION = 4.0
"""The test ends when the smoothed loss exceeds its minimum by this factor."""
SHARE = 0.1
"""The suggestion, as a share of the rate at which the smoothed loss is least."""


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """Set the range of a learning-rate range test."""

    lowest: float = 1e-6
    """Learning rate of the first step."""
    highest: float = 1.0
    """Learning rate of the last step."""
    steps: int = 100
    """Optimiser steps, fewer if the loss explodes."""

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest or self.steps < 10:
            raise InputError(
                f"lowest {self.lowest}, highest {self.highest}, steps {self.steps}: rates above 0, the lowest below "
                "the highest, and at least 10 steps."
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0: a geometric series."""
        return self.lowest * (self.highest / self.lowest) ** (step / (self.steps - 1))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Hold the result of a learning-rate range test."""

    suggestion: float
    """Peak learning rate for the group with the highest rate; the other groups keep their ratios to it."""
    least: float
    """The rate at which the smoothed loss was least."""
    exploded: bool
    """The loss exploded within the range. If not, a higher rate may work too."""
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
    test: RangeTest = RangeTest(),
) -> Finding:
    """Train for a few steps with a rising learning rate, and restore everything.

    Weights, buffers, gradients, modes, torch's random state and the loss scale are restored to the bit, also after an
    error. Schedule, warm-up and moving average are left out. What moves without gradients (`Objective.after_step`) does
    not move.

    Args:
        objective: as in `loop.train`.
        groups: parameter groups (`optimizers.parameter_groups`); only the ratios between their rates matter here.
        batches: epochs from 0 on, as many as the test takes.
        optimizer: optimiser, clipping and micro-batches.
        seed: as in `loop.train`.
        runtime: device and processes; every process finds the same rate.
        test: range of the rates and number of steps.

    Raises:
        InputError: the loss falls at no rate.
    """
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
        for step, batch in enumerate(itertools.islice(_endless(batches), test.steps)):
            rate = test.rate(step)
            for group, ratio in zip(stepper.param_groups, ratios, strict=True):
                group["lr"] = rate * ratio
            reseed(seed_from(seed, step, runtime.process_index), runtime.device)
            output = accumulate_gradient(wrapped, batch, optimizer.accumulate, accelerator)
            loss = float(runtime.mean(output.loss))
            average = SMOOTHING * average + (1.0 - SMOOTHING) * loss
            # Corrects the bias of an average that starts from 0 (Kingma and Ba 2015, section 3).
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
    return _suggest(rows, skipped=test.steps // 10, exploded=exploded)


def _suggest(rows: list[dict[str, float]], *, skipped: int, exploded: bool) -> Finding:
    """Apply the rule above to a curve without its first steps, whose average covers one or two batches."""
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
    """Restore the objective, torch's random state and the accelerator after the `with` block."""
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
        # Wrapper and optimiser must not outlive the test.
        runtime.accelerator.free_memory()


def _tensors(objective: Objective) -> Iterator[tuple[str, Tensor]]:
    """Iterate over parameters and buffers by name, including buffers that are not in the state_dict."""
    yield from objective.named_parameters()
    yield from objective.named_buffers()
