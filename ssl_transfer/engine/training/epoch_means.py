"""Average the loss and the metrics over the steps of an epoch, and measure its throughput."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.distributed.runtime import Runtime

from .objective import Output


class Tally:
    """Sum the loss and the metrics of this process; a saved state holds the sums of all processes."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.count = 0
        """Number of steps taken in this epoch."""
        self._sums: dict[str, Tensor] = {}

    def add(self, output: Output) -> None:
        """Add a step, without waiting for the device."""
        self.count += 1
        for name, value in {"loss": output.loss, **output.metrics}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()

    def close(self) -> dict[str, float]:
        """Return the means over steps and processes, `loss` first, and reset. Empty if no step was taken.

        Waits for the device.
        """
        sums, count = self._sums, self.count
        self._sums, self.count = {}, 0
        if not count:
            return {}
        return read(sums.pop("loss"), sums, count, self._runtime)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of this process."""
        return {"count": self.count, "sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        self.count, self._sums = state["count"], state["sums"]

    def gathered(self) -> dict[str, Any]:
        """Return the sums of all processes, on each of them; every process must call this."""
        rows = {name: collectives.gather_without_gradient(sums.reshape(1)) for name, sums in self._sums.items()}
        return {"count": self.count, "rows": rows}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from the result of `gathered`; with another number of processes, from the mean over processes."""
        device, rank = self._runtime.device, self._runtime.process_index
        self.count = state["count"]
        self._sums = {
            name: (row[rank] if len(row) == self._runtime.num_processes else row.mean()).to(device)
            for name, row in state["rows"].items()
        }


class Throughput:
    """Measure images per second."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start to measure at a step."""
        self._step, self._begun = step, time.monotonic()

    def value(self, step: int) -> float:
        """Return the images per second since `begin`."""
        return (step - self._step) * self._batch_size / max(time.monotonic() - self._begun, 1e-9)


def read(loss: Tensor, metrics: Mapping[str, Tensor], count: int, runtime: Runtime) -> dict[str, float]:
    """Divide sums over `count` steps into means over steps and processes: `loss` first, then the metrics by name.

    Waits for the device, once for all values.
    """
    names = sorted(metrics)
    values = torch.stack([loss, *(metrics[name] for name in names)]) / count
    return dict(zip(["loss", *names], runtime.mean(values).tolist(), strict=True))
