"""Agree across processes on one step: is it finite, did a signal arrive, is a state due.

A loss may be non-finite on one process only, a signal may reach one process only, and clocks differ. All processes must
act alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import collectives


@dataclass(frozen=True, kw_only=True)
class Consensus:
    """Hold what every process agreed on."""

    finite: bool
    """No process raised its flag."""
    stop: bool
    """Some process received a signal to stop."""
    due: bool
    """The clock of some process says that a state is due."""


def agree(flag: Tensor, *, stop: bool, due: bool) -> Consensus:
    """Exchange three numbers with every process, and wait for the device.

    Args:
        flag: () float32 of this process: 0 where everything was finite.
        stop: this process received a signal to stop.
        due: the clock of this process says that a state is due.
    """
    if collectives.num_processes() == 1:
        return Consensus(finite=not bool(flag), stop=stop, due=due)
    flags = torch.tensor([0.0, float(stop), float(due)]).to(flag.device, non_blocking=True)
    flags[0] = flag
    collectives.maximum(flags)
    non_finite, any_stop, any_due = flags.tolist()
    return Consensus(finite=not non_finite, stop=bool(any_stop), due=bool(any_due))
