"""Watching a training between two evaluations: what the loop asks now and then, and how it reads the device for it."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ssl_transfer.engine.distributed.runtime import Runtime


class Monitor(Protocol):
    """Is shown the values of one step now and then, and every evaluation; its state is saved with the training's."""

    every: int
    """Optimiser steps between two looks. Each look waits once for the device."""

    def look(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """`loss` and the objective's metrics of this step, or the metrics of an evaluation: the same on every process.

        What is worth a row of its own in the log is returned; otherwise nothing.
        """

    def state_dict(self) -> dict[str, Any]:
        """Numbers, words and containers of them."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Go on from what `state_dict` gave."""


def read(loss: Tensor, metrics: Mapping[str, Tensor], count: int, runtime: Runtime) -> dict[str, float]:
    """Sums over `count` steps as means over steps and processes: `loss` first, then the metrics by name.

    This waits for the device, once for all of them.
    """
    names = sorted(metrics)
    values = torch.stack([loss, *(metrics[name] for name in names)]) / count
    return dict(zip(["loss", *names], runtime.mean(values).tolist(), strict=True))
