"""What all processes must know alike of a step before they take it: whether to, and what comes after it.

A loss that is not finite on one process must keep all of them from stepping; a signal may reach one of them; their
clocks differ.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import collectives
from .runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Of every process."""

    finite: bool
    """Whether each one's value is."""
    stop: bool
    """Whether anybody was asked to leave."""
    due: bool
    """Whether a state is to be saved."""


class Agreement:
    """Asks all processes, in one exchange of three numbers."""

    def __init__(self, runtime: Runtime) -> None:
        self._alone = runtime.num_processes == 1

    def ask(self, value: Tensor, *, stop: bool, due: bool) -> Answer:
        """What is known of every process. This waits for the device.

        Args:
            value: () float32 of this process, finite or not.
            stop: whether it was asked to leave.
            due: whether its clock says that it is time to save.
        """
        if self._alone:
            return Answer(finite=bool(torch.isfinite(value)), stop=stop, due=due)
        flags = torch.tensor([0.0, float(stop), float(due)]).to(value.device, non_blocking=True)
        flags[0] = ~torch.isfinite(value.detach())
        collectives.maximum(flags)
        infinite, anybody_stops, anybody_saves = flags.tolist()
        return Answer(finite=not infinite, stop=bool(anybody_stops), due=bool(anybody_saves))
