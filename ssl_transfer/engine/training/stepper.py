"""One optimiser step after the other: rate, gradient, the decision to take it, weights, and what moves with them."""

from collections.abc import Callable
from typing import Any

import torch

from ssl_transfer.engine.distributed.consensus import Agreement, Answer
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.optimization.ema import WeightAverage
from ssl_transfer.engine.optimization.lr_schedules import Rates
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig, make_optimizer
from ssl_transfer.engine.randomness import reseed, seed_from

from .epoch_means import Tally
from .nonfinite import Skips
from .objective import Batch, Objective, Output
from .out_of_memory import Gradients
from .train_state import Stateful

_FIRST_SCALE = {"scale": 2.0**16, "_growth_tracker": 0}
"""torch's own, of the loss in half precision."""


class Steps:
    """The steps of one training.

    Args:
        objective: in training mode; it is on the runtime's device afterwards.
        groups: parameter groups with their learning rates.
        optimizer: all that concerns the steps.
        num_steps: of the whole training; the schedule is laid over them.
        seed: reseeds torch before every step.
        phase: its name in messages.
        higher_is_better: of the metric that the schedule plateau goes by.
        runtime: device and processes.
    """

    def __init__(
        self,
        objective: Objective,
        groups: list[dict[str, object]],
        optimizer: OptimizerConfig,
        *,
        num_steps: int,
        seed: int,
        phase: str,
        higher_is_better: bool,
        runtime: Runtime,
    ) -> None:
        accelerator = runtime.accelerator
        self.done = 0
        """Steps that lie behind, skipped ones among them."""
        self.num_steps = num_steps
        self.wrapped = accelerator.prepare_model(objective.to(runtime.device))
        """The objective in what distributes it."""
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
            objective, self.wrapped, accumulate=optimizer.accumulate, phase=phase, runtime=runtime
        )
        self._agreement = Agreement(runtime)
        self._objective, self._runtime, self._seed, self._clip = objective, runtime, seed, optimizer.clip_norm
        if accelerator.scaler is not None:
            # It is the process's: what an earlier training left must not change this one.
            accelerator.scaler.load_state_dict({**accelerator.scaler.state_dict(), **_FIRST_SCALE})

    @property
    def rate(self) -> float:
        """The learning rate of the last step, the largest of all groups."""
        return max(group["lr"] for group in self._optimizer.param_groups)

    def parts(self) -> dict[str, Stateful]:
        """What a state holds of the steps, beside their number and the tally."""
        scaler = self._runtime.accelerator.scaler
        return {
            "objective": self._objective,
            "optimizer": self._optimizer,
            "rates": self.rates,
            "average": self.average,
            "skips": self.skips,
            "gradients": self._gradients,
            **({} if scaler is None else {"scaler": scaler}),
        }

    def take(self, batch: Batch, asked: Callable[[], tuple[bool, bool]]) -> tuple[Output, Answer]:
        """Take a step, or undo it where the loss or the gradient is not finite on some process.

        Args:
            batch: this process's images.
            asked: whether this process is asked to leave, and whether its state is due to be saved.

        Returns:
            The loss and the metrics of this process, and what all know.
        """
        factor, number = self.rates.factor(self.done), self.done
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self.skips.keep()

        def begin() -> None:
            reseed(seed_from(self._seed, number, self._runtime.process_index), self._runtime.device)

        output = self._gradients.add(batch, begin, self.skips.undo)
        norm = self._norm()
        stop, due = asked()
        answer = self._agreement.ask(output.loss + norm * 0.0, stop=stop, due=due)
        self.done += 1
        if answer.finite:
            if self._clip:
                torch.nn.utils.clip_grads_with_norm_(self._objective.parameters(), self._clip, norm)
            self._optimizer.step()
            self._objective.after_step(self.done / self.num_steps)
            self.average.update()
            self.tally.add(output)
        else:
            self.skips.undo()
            self.skips.count += 1
        self._optimizer.zero_grad(set_to_none=True)
        return output, answer

    def agree(self, asked: Callable[[], tuple[bool, bool]]) -> Answer:
        """What all know between two steps."""
        stop, due = asked()
        return self._agreement.ask(torch.zeros((), device=self._runtime.device), stop=stop, due=due)

    def _norm(self) -> torch.Tensor:
        """The gradient's norm over all parameters, () float32, where it is of use; otherwise 0."""
        scaler = self._runtime.accelerator.scaler
        if scaler is not None and not self._clip:
            # It looks for gradients beyond half precision itself, and goes on with a smaller scale.
            return torch.zeros((), device=self._runtime.device)
        if scaler is not None:
            self._runtime.accelerator.unscale_gradients()
        gradients = [one.grad for one in self._objective.parameters() if one.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return norm if scaler is None else norm.nan_to_num()
