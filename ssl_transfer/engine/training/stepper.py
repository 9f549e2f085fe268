"""Take optimiser steps: learning rate, gradient, finiteness check, weights, and all that moves with the weights."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ssl_transfer.engine.distributed.consensus import Consensus, agree
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.optimization.ema import WeightAverage
from ssl_transfer.engine.optimization.lr_schedules import Rates
from ssl_transfer.engine.optimization.optimizers import make_optimizer
from ssl_transfer.engine.randomness import reseed, seed_from

from .checkpointing import Stateful
from .epoch_means import Tally
from .nonfinite import Flag, Skips, Snapshot, check_every
from .objective import Batch, Objective, Output
from .out_of_memory import Gradients
from .training_settings import TrainingPlan

Requested = Callable[[], tuple[bool, bool]]
"""Returns whether a signal asked this process to stop, and whether a state is due."""
_FIRST_SCALE = {"scale": 2.0**16, "_growth_tracker": 0}
"""Initial loss scale of torch, for half precision."""


class Taken(NamedTuple):
    """Report a step."""

    output: Output
    """Loss and metrics of this process."""
    outcome: Literal["taken", "skipped", "rolled back"]
    """skipped: undone and counted, because loss or gradient is non-finite on some process. rolled back: this step and
    those since the last check are undone, and follow again from `Steps.done` on."""
    stop: bool
    """Some process was asked to stop. Only a check finds out."""
    due: bool
    """A state is due on some process. Only a check finds out."""


class Steps:
    """Take the steps of one training.

    Args:
        objective: in training mode; it moves to the runtime's device.
        groups: parameter groups with their learning rates.
        plan: optimiser, seed and phase.
        num_steps: steps of the whole training, which the schedule covers.
        higher_is_better: direction of the metric that the schedule plateau goes by.
        runtime: device and processes.
    """

    def __init__(
        self,
        objective: Objective,
        groups: list[dict[str, object]],
        plan: TrainingPlan,
        *,
        num_steps: int,
        higher_is_better: bool,
        runtime: Runtime,
    ) -> None:
        accelerator, optimizer = runtime.accelerator, plan.optimizer
        self.done = 0
        """Number of steps so far, skipped steps included."""
        self.num_steps = num_steps
        self.wrapped = accelerator.prepare_model(objective.to(runtime.device))
        """The objective inside its wrapper of distributed training."""
        self._optimizer: Any = accelerator.prepare_optimizer(make_optimizer(optimizer, groups))
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self.rates = Rates(
            optimizer.schedule,
            num_steps=num_steps,
            warmup_steps=optimizer.warmup_steps,
            plateau_factor=optimizer.plateau_factor,
            plateau_patience=optimizer.plateau_patience,
            higher_is_better=higher_is_better,
        )
        trained = [one for group in self._optimizer.param_groups for one in group["params"]]
        self.average = WeightAverage(trained, optimizer.ema_decay)
        self.skips = Skips(objective, optimizer.skip_limit)
        self.tally = Tally(runtime)
        self._gradients = Gradients(
            objective, self.wrapped, accumulate=optimizer.accumulate, phase=plan.phase, runtime=runtime
        )
        self.objective, self._runtime, self._seed, self._clip = objective, runtime, plan.seed, optimizer.clip_norm
        if accelerator.scaler is not None:
            # It belongs to the process: an earlier training must not change this one.
            accelerator.scaler.load_state_dict({**accelerator.scaler.state_dict(), **_FIRST_SCALE})
        self._flag = Flag(runtime.device)
        self._snapshot = Snapshot({**self.parts(), "tally": self.tally})
        self._check_every = check_every(runtime.device)
        self._unchecked = 0
        """Steps since the snapshot."""
        self._checked_singly_until = 0
        """The step up to which every step is checked, after a roll back."""

    @property
    def rate(self) -> float:
        """Return the learning rate of the last step, the largest of all groups."""
        return max(group["lr"] for group in self._optimizer.param_groups)

    def parts(self) -> dict[str, Stateful]:
        """Return the parts of a state that belong to the steps, except their number and the tally."""
        scaler = self._runtime.accelerator.scaler
        return {
            "objective": self.objective,
            "optimizer": self._optimizer,
            "rates": self.rates,
            "average": self.average,
            "skips": self.skips,
            "gradients": self._gradients,
            **({} if scaler is None else {"scaler": scaler}),
        }

    def take(self, batch: Batch, requested: Requested, check: bool) -> Taken:
        """Take a step, and check now or later that loss and gradient are finite on every process.

        A check waits for the device. On a GPU it follows every `nonfinite.CHECK_EVERY` steps, and:

        - where `check` asks for it;
        - on one process, with a signal or a due state (several processes exchange these at a check);
        - after every step that a roll back repeats.

        Args:
            batch: this process's images.
            requested: requests of this process.
            check: the caller reads or saves something after this step. Equal on every process.
        """
        singly = self._check_every == 1 or self.done < self._checked_singly_until
        if not singly and not self._unchecked:
            self._snapshot.take()
        factor = self.rates.factor(self.done)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self.skips.keep()
        output = self._gradients.add(batch, self._reseed, self.skips.undo)
        norm = self._check_later(output.loss)
        taken = (
            self._finish_checked(output, norm, requested) if singly else self._finish(output, norm, requested, check)
        )
        self._optimizer.zero_grad(set_to_none=True)
        return taken

    def agree(self, requested: Requested) -> Consensus:
        """Exchange requests between two steps. Waits for the device."""
        stop, due = requested()
        known = agree(self._flag.value, stop=stop, due=due)
        self._flag.clear()
        return known

    def _finish_checked(self, output: Output, norm: Tensor | None, requested: Requested) -> Taken:
        """Take the step if everything is finite, otherwise undo it. The weights never see a non-finite gradient."""
        known = self.agree(requested)
        self.done += 1
        if known.finite:
            self._update(output, norm)
        else:
            self.skips.undo()
            self.skips.count += 1
        return Taken(output, "taken" if known.finite else "skipped", known.stop, known.due)

    def _finish(self, output: Output, norm: Tensor | None, requested: Requested, check: bool) -> Taken:
        """Take the step unseen, and at a check return to the snapshot if any step since then was non-finite."""
        self.done += 1
        self._update(output, norm)
        self._unchecked += 1
        alone_and_asked = self._runtime.num_processes == 1 and any(requested())
        if not (check or alone_and_asked or self._unchecked == self._check_every):
            return Taken(output, "taken", stop=False, due=False)
        known, count = self.agree(requested), self._unchecked
        self._unchecked = 0
        if known.finite:
            return Taken(output, "taken", known.stop, known.due)
        self._checked_singly_until = self.done
        self.done -= count
        self._snapshot.restore()
        return Taken(output, "rolled back", stop=False, due=False)

    def _reseed(self) -> None:
        reseed(seed_from(self._seed, self.done, self._runtime.process_index), self._runtime.device)

    def _check_later(self, loss: Tensor) -> Tensor | None:
        """Flag a non-finite loss or gradient on the device, and return the gradient norm where it clips."""
        if self._runtime.accelerator.scaler is not None:
            # The scaler looks for gradients beyond half precision, skips their step, and lowers its scale.
            self._flag.add(loss, [])
            return None
        gradients = [one.grad for one in self.objective.parameters() if one.grad is not None]
        if not self._clip:
            self._flag.add(loss, gradients)
            return None
        norm = torch.nn.utils.get_total_norm(gradients)
        # Not finite if an element of any gradient is not.
        self._flag.add(loss + norm * 0.0, [])
        return norm

    def _update(self, output: Output, norm: Tensor | None) -> None:
        """Step the weights, and all that follows them."""
        parameters = list(self.objective.parameters())
        if self._clip:
            if norm is None:
                self._runtime.accelerator.unscale_gradients()
                gradients = [one.grad for one in parameters if one.grad is not None]
                norm = torch.nn.utils.get_total_norm(gradients).nan_to_num()
            torch.nn.utils.clip_grads_with_norm_(parameters, self._clip, norm)
        self._optimizer.step()
        self.objective.after_step(self.done / self.num_steps)
        self.average.update()
        self.tally.add(output)
