"""What all processes must know alike of a step before they take it: whether to, and what comes after it.

A loss that is not finite on one process must keep all of them from stepping; a signal may reach one of them; their
clocks differ. The answer is asked for between forward and backward pass and read after the latter, so that a GPU has
work meanwhile.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import distributed
from .runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Of every process."""

    finite: bool
    """Whether each one's loss is."""
    stop: bool
    """Whether anybody was asked to leave."""
    due: bool
    """Whether a state is to be saved."""


class Agreement:
    """`put` what this process knows, then `get` what all know."""

    def __init__(self, runtime: Runtime) -> None:
        self._alone = runtime.num_processes == 1
        self._local = (False, False)
        on_gpu = runtime.device.type == "cuda"
        self._read = torch.zeros(3, pin_memory=on_gpu)
        self._arrived = torch.cuda.Event() if on_gpu else None

    def put(self, loss: Tensor, *, stop: bool, due: bool) -> None:
        """Tell the others; `loss` is this process's, () float32."""
        infinite = (~torch.isfinite(loss.detach())).float()
        flags = torch.zeros(3, device=loss.device)
        if not self._alone:
            # From the host alone: nothing waits for the device.
            flags = torch.tensor([0.0, float(stop), float(due)]).to(loss.device, non_blocking=True)
        flags[0] = infinite
        if not self._alone:
            distributed.maximum(flags)
        self._local = (stop, due)
        self._read.copy_(flags, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()

    def get(self) -> Answer:
        """What is known now. This waits for the forward pass, not for what was begun after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        infinite, stop, due = self._read.tolist()
        if self._alone:
            stop, due = self._local
        return Answer(finite=not infinite, stop=bool(stop), due=bool(due))
