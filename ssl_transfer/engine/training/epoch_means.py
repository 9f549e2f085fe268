"""Sums of the loss and the metrics over the steps of an epoch; part of a state that is saved in the middle of one."""

from typing import Any

from torch import Tensor

from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.distributed.runtime import Runtime

from .monitor import read
from .objective import Output


class Tally:
    """Of this process; its state is of all."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.count = 0
        """Steps that were taken."""
        self._sums: dict[str, Tensor] = {}

    def add(self, output: Output) -> None:
        """Count a step. Nothing waits for the device."""
        self.count += 1
        for name, value in {"loss": output.loss, **output.metrics}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach()

    def close(self) -> dict[str, float]:
        """Means over steps and processes, `loss` first; counting begins anew. Empty where no step was taken.

        This waits for the device.
        """
        sums, count = self._sums, self.count
        self._sums, self.count = {}, 0
        if not count:
            return {}
        return read(sums.pop("loss"), sums, count, self._runtime)

    def gathered(self) -> dict[str, Any]:
        """The state of all processes, on each of them: every process must call this."""
        rows = {name: collectives.gather_without_gradient(sums.reshape(1)) for name, sums in self._sums.items()}
        return {"count": self.count, "rows": rows}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `gathered` gave; other processes than those that gave it take the mean of them each."""
        device, rank = self._runtime.device, self._runtime.process_index
        self.count = state["count"]
        self._sums = {
            name: (row[rank] if len(row) == self._runtime.num_processes else row.mean()).to(device)
            for name, row in state["rows"].items()
        }
