"""Keep an exponential moving average of the weights, which is evaluated and exported in their place.

Polyak and Juditsky 1992; as an exponential average, Tarvainen and Valpola, "Mean teachers", 2017. The decay warms up
as in TensorFlow's `tf.train.ExponentialMovingAverage(num_updates)`, with t earlier updates:

    average = d * average + (1 - d) * weights,    d = min(decay, (1 + t) / (10 + t))

Without the warm-up a short training would keep much of its random initial weights.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Average trained parameters.

    Frozen parameters and buffers such as BatchNorm statistics are not averaged. They are evaluated and exported as they
    are.

    Args:
        parameters: trained parameters; the average starts from their values.
        decay: 0 keeps no average, and every method does nothing.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._decay = decay
        self._parameters = list(parameters) if decay else []
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._updates = 0

    def update(self) -> None:
        """Add the weights after a step to the average."""
        if self._decay:
            decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
            weights: list[Tensor] = [parameter.detach() for parameter in self._parameters]
            get_ema_multi_avg_fn(decay)(self._averages, weights, self._updates)
            self._updates += 1

    def write(self) -> None:
        """Overwrite the parameters with the average."""
        _copy(self._averages, self._parameters)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Overwrite the parameters with the average for the `with` block, and restore them afterwards."""
        held = [parameter.detach().clone() for parameter in self._parameters]
        self.write()
        try:
            yield
        finally:
            _copy(held, self._parameters)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, in the order of the parameters, and its number of updates; empty without an average."""
        return {"updates": self._updates, "averages": self._averages} if self._decay else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        if self._decay:
            self._updates = state["updates"]
            _copy(state["averages"], self._averages)


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)
