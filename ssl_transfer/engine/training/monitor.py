"""Monitor a training between two evaluations."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ssl_transfer.engine.distributed.runtime import Runtime


class Monitor(Protocol):
    """Look at the metrics of single steps and of evaluations; its state is saved with that of the training."""

    every: int
    """Optimiser steps between two looks. Each look waits for the device."""

    def look(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Look at one step or evaluation, and return the metrics of an alarm for the log, or nothing.

        Args:
            step: number of steps so far.
            values: `loss` and the metrics of a step, or the metrics of an evaluation; equal on every process.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return numbers, strings and containers of them."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Continue from the result of `state_dict`."""


def read(loss: Tensor, metrics: Mapping[str, Tensor], count: int, runtime: Runtime) -> dict[str, float]:
    """Divide sums over `count` steps into means over steps and processes: `loss` first, then the metrics by name.

    Waits for the device, once for all values.
    """
    names = sorted(metrics)
    values = torch.stack([loss, *(metrics[name] for name in names)]) / count
    return dict(zip(["loss", *names], runtime.mean(values).tolist(), strict=True))
