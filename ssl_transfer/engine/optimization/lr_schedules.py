"""Schedules: the factor on every learning rate, step by step.

Every schedule starts with a linear warm-up (Goyal et al. 2017). Then the factor falls along half a cosine (Loshchilov
and Hutter 2017), or as an inverse power of the progress (Ganin et al. 2016, "Domain-adversarial training of neural
networks", section 5.2.2), or by steps where a validation metric has come to rest, or stays.
"""

import math
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

Schedule = Literal["cosine", "inverse", "plateau", "constant"]
INVERSE_SCALE, INVERSE_POWER = 10.0, 0.75
"""Alpha and beta of Ganin et al."""


def warmup(step: int, num_steps: int, warmup_steps: int) -> float:
    """The warm-up's factor at `step` (from 0): a linear rise to 1, then 1.

    A warm-up as long as the training or longer is cut to a tenth of it, or it would never reach its rate.
    """
    length = warmup_length(num_steps, warmup_steps)
    return (step + 1) / length if step < length else 1.0


def warmup_length(num_steps: int, warmup_steps: int) -> int:
    """How many steps the warm-up really takes."""
    return warmup_steps if warmup_steps < num_steps else num_steps // 10


def warmup_cosine(step: int, num_steps: int, warmup_steps: int) -> float:
    """The factor on the learning rate at `step` (from 0): a linear rise, then half a cosine down to 0.

    A function of the step alone, so a resumed run needs no schedule state.
    """
    length = warmup_length(num_steps, warmup_steps)
    if step < length:
        return warmup(step, num_steps, warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * (step - length) / max(1, num_steps - length)))


def warmup_inverse(step: int, num_steps: int, warmup_steps: int) -> float:
    """A linear rise, then 1 / (1 + 10 p)^0.75 with p the progress from 0 to 1: down to a sixth.

    A function of the step alone.
    """
    length = warmup_length(num_steps, warmup_steps)
    if step < length:
        return warmup(step, num_steps, warmup_steps)
    progress = (step - length) / max(1, num_steps - length)
    return (1.0 + INVERSE_SCALE * progress) ** -INVERSE_POWER


class Rates:
    """The factor on the learning rates over one training.

    Args:
        schedule: cosine, inverse, plateau or constant, each after the warm-up.
        num_steps: optimiser steps of the whole training.
        warmup_steps: optimiser steps of the warm-up.
        plateau_factor: what the factor is multiplied by at a plateau, between 0 and 1.
        plateau_patience: evaluations without improvement before the factor falls; one more and it does.
        higher_is_better: of the metric that `observe` is told.
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
            # Torch's scheduler works on an optimiser's rates. This one's only rate is the factor on all the others,
            # so that groups with rates of their own keep their ratios.
            self._plateau = ReduceLROnPlateau(
                torch.optim.SGD([torch.zeros(())], lr=1.0),
                mode="max" if higher_is_better else "min",
                factor=plateau_factor,
                patience=plateau_patience,
                # Torch's is relative, by which a negative metric at rest counts as improving.
                threshold=0.0,
            )

    def factor(self, step: int) -> float:
        """The factor at `step`, from 0."""
        if self._schedule == "cosine":
            return warmup_cosine(step, self._num_steps, self._warmup_steps)
        if self._schedule == "inverse":
            return warmup_inverse(step, self._num_steps, self._warmup_steps)
        rested = 1.0 if self._plateau is None else float(self._plateau.get_last_lr()[0])
        return rested * warmup(step, self._num_steps, self._warmup_steps)

    def observe(self, value: float) -> None:
        """Note the validation metric of an evaluation, which only plateau looks at; not a number is no gain."""
        if self._plateau is not None:
            self._plateau.step(value)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; empty where the factor is a function of the step."""
        return {} if self._plateau is None else self._plateau.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if self._plateau is not None:
            self._plateau.load_state_dict(state)
            # The rate itself is the optimiser's, which the scheduler's state leaves out.
            self._plateau.optimizer.param_groups[0]["lr"] = self._plateau.get_last_lr()[0]
