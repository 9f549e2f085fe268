"""Compute learning-rate schedules: one factor on all learning rates for each step.

Every schedule starts with a linear warm-up (Goyal et al. 2017). Then the factor

- falls along half a cosine (Loshchilov and Hutter 2017),
- falls as an inverse power of the progress (Ganin et al. 2016, "Domain-adversarial training of neural networks",
  section 5.2.2),
- falls at each plateau of a validation metric, or
- stays constant.
"""

import math
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

Schedule = Literal["cosine", "inverse", "plateau", "constant"]
INVERSE_SCALE, INVERSE_POWER = 10.0, 0.75
"""Alpha and beta of Ganin et al."""


def warmup(step: int, num_steps: int, warmup_steps: int) -> float:
    """Return the factor of the warm-up at `step` (from 0): a linear rise to 1, then 1.

    A warm-up that is not shorter than the training would never end, so it is cut to a tenth of the training.
    """
    length = warmup_length(num_steps, warmup_steps)
    return (step + 1) / length if step < length else 1.0


def warmup_length(num_steps: int, warmup_steps: int) -> int:
    """Return the number of warm-up steps after the cut."""
    return warmup_steps if warmup_steps < num_steps else num_steps // 10


def warmup_cosine(step: int, num_steps: int, warmup_steps: int) -> float:
    """Return the factor at `step` (from 0): a linear rise, then half a cosine down to 0.

    It is a function of the step, so that a resumed run needs no state of the schedule.
    """
    length = warmup_length(num_steps, warmup_steps)
    if step < length:
        return warmup(step, num_steps, warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * (step - length) / max(1, num_steps - length)))


def warmup_inverse(step: int, num_steps: int, warmup_steps: int) -> float:
    """Return the factor at `step` (from 0): a linear rise, then 1 / (1 + 10 p)^0.75, p from 0 to 1: down to a sixth."""
    length = warmup_length(num_steps, warmup_steps)
    if step < length:
        return warmup(step, num_steps, warmup_steps)
    progress = (step - length) / max(1, num_steps - length)
    return (1.0 + INVERSE_SCALE * progress) ** -INVERSE_POWER


class Rates:
    """Compute the factor on the learning rates over one training.

    Args:
        schedule: after the warm-up.
        num_steps: optimiser steps of the whole training.
        warmup_steps: optimiser steps.
        plateau_factor: multiplies the factor at each plateau, between 0 and 1.
        plateau_patience: consecutive evaluations without improvement that are tolerated; the next one is a plateau.
        higher_is_better: direction of the metric of `observe`.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        num_steps: int,
        warmup_steps: int,
        plateau_factor: float,
        plateau_patience: int,
        higher_is_better: bool,
    ) -> None:
        self._schedule, self._num_steps, self._warmup_steps = schedule, num_steps, warmup_steps
        self._plateau: ReduceLROnPlateau | None = None
        if schedule == "plateau":
            # torch's scheduler changes the rates of an optimiser. The only rate of this one is the factor on all
            # others, so that groups with different rates keep their ratios.
            self._plateau = ReduceLROnPlateau(
                torch.optim.SGD([torch.zeros(())], lr=1.0),
                mode="max" if higher_is_better else "min",
                factor=plateau_factor,
                patience=plateau_patience,
                # torch's default is relative, so that a constant negative metric would improve.
                threshold=0.0,
            )

    def factor(self, step: int) -> float:
        """Return the factor at `step`, from 0."""
        if self._schedule == "cosine":
            return warmup_cosine(step, self._num_steps, self._warmup_steps)
        if self._schedule == "inverse":
            return warmup_inverse(step, self._num_steps, self._warmup_steps)
        rested = 1.0 if self._plateau is None else float(self._plateau.get_last_lr()[0])
        return rested * warmup(step, self._num_steps, self._warmup_steps)

    def observe(self, value: float) -> None:
        """Pass a validation metric to the schedule plateau; not a number is no improvement."""
        if self._plateau is not None:
            self._plateau.step(value)

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers; empty if the factor is a function of the step."""
        return {} if self._plateau is None else self._plateau.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        if self._plateau is not None:
            self._plateau.load_state_dict(state)
            # The scheduler's state leaves out the rate, which belongs to the optimiser.
            self._plateau.optimizer.param_groups[0]["lr"] = self._plateau.get_last_lr()[0]
