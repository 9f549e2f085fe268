"""An exponential moving average of the weights, which is evaluated and kept instead of the weights.

Polyak and Juditsky 1992; as an exponential average, Tarvainen and Valpola, "Mean teachers", 2017. The decay warms up
as in TensorFlow's `tf.train.ExponentialMovingAverage(num_updates)`: with t updates made before,

    average = d * average + (1 - d) * weights,    d = min(decay, (1 + t) / (10 + t)),

or a short training would keep much of its random start.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The average of trained parameters.

    Nothing else is averaged: frozen parameters, and buffers such as BatchNorm's statistics, stay the module's own and
    are evaluated and kept with the average as they are at the moment.

    Args:
        parameters: those that are trained; the average starts from them as they are.
        decay: 0 keeps no average, and every method does nothing.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._decay = decay
        self._parameters = list(parameters) if decay else []
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._updates = 0

    def update(self) -> None:
        """Take in the weights after a step."""
        if self._decay:
            decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
            weights: list[Tensor] = [parameter.detach() for parameter in self._parameters]
            get_ema_multi_avg_fn(decay)(self._averages, weights, self._updates)
            self._updates += 1

    def write(self) -> None:
        """Put the average in the parameters' place, for good."""
        _copy(self._averages, self._parameters)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """For the `with` block, the average stands in the parameters' place."""
        held = [parameter.detach().clone() for parameter in self._parameters]
        self.write()
        try:
            yield
        finally:
            _copy(held, self._parameters)

    def state_dict(self) -> dict[str, Any]:
        """The average in the parameters' order, and how many weights went into it; empty without one."""
        return {"updates": self._updates, "averages": self._averages} if self._decay else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if self._decay:
            self._updates = state["updates"]
            _copy(state["averages"], self._averages)


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)
