"""Detect non-finite losses and gradients, undo the steps they spoil, and count them.

On a CPU every step is checked before the optimiser takes it. A GPU computes asynchronously, and reading a flag waits
for it. There the flag stays on the device and is read every `CHECK_EVERY` steps. If it is raised, the training returns
to the snapshot of the previous check and repeats those steps one by one, each with its own check. Batches and
randomness are functions of (seed, epoch, sample), so that the repetition computes the same values.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .checkpointing import Stateful
from .objective import Objective

CHECK_EVERY = 16
"""Steps between two readings of the flag, on a device that computes asynchronously."""
CHECK_EVERY_ON_CPU = 1
"""On a CPU a reading waits for nothing, and checking each step needs no snapshot."""
NAMED = 8
"""Images of a batch that a message names; the log names all of them."""


def check_every(device: torch.device) -> int:
    """Return the number of steps between two checks on a device."""
    return CHECK_EVERY_ON_CPU if device.type == "cpu" else CHECK_EVERY


class Flag:
    """Record on the device whether a loss or a gradient was non-finite, without waiting for the device."""

    def __init__(self, device: torch.device) -> None:
        self.value = torch.zeros((), device=device)
        """() float32: 0 while everything was finite."""
        self._one = torch.ones((), device=device)

    def add(self, loss: Tensor, gradients: list[Tensor]) -> None:
        """Raise the flag if the loss or an element of the gradients is infinite or not a number.

        One fused kernel reads all gradients, the one that loss scaling uses. A norm costs a reduction for each tensor.
        """
        self.value += ~torch.isfinite(loss.detach())
        if gradients:
            # It also multiplies the gradients, by 1 here, which leaves their bits.
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.value, self._one)

    def clear(self) -> None:
        """Lower the flag."""
        self.value.zero_()


class Snapshot:
    """Keep copies of stateful parts on their device, and return the parts to them.

    Args:
        parts: what `checkpointing` saves of them is what is copied here.
    """

    def __init__(self, parts: Mapping[str, Stateful]) -> None:
        self._parts = parts
        self._held: dict[str, dict[str, Any]] = {}

    def take(self) -> None:
        """Copy the state of every part. Waits for nothing, except for a loss scale (fp16)."""
        # Freed first, so that the copies reuse the memory.
        self._held = {}
        self._held = {name: _copied(part.state_dict()) for name, part in self._parts.items()}

    def restore(self) -> None:
        """Return every part to the copied state, once."""
        for name, part in self._parts.items():
            part.load_state_dict(self._held.pop(name))


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(one) for one in value)
    return value


class Skips:
    """Count skipped steps, and restore the buffers that a forward pass changed.

    BatchNorm statistics, a queue and a centre take in the features of each forward pass. Non-finite features would
    spoil them for good.

    Args:
        objective: its buffers are restored in place.
        limit: number of steps that may be skipped.
    """

    def __init__(self, objective: Objective, limit: int) -> None:
        self.count, self.limit = 0, limit
        self._buffers: list[Tensor] = list(objective.buffers())
        self._held = [buffer.clone() for buffer in self._buffers]

    @property
    def too_many(self) -> bool:
        """Return whether the count exceeds the limit."""
        return self.count > self.limit

    def keep(self) -> None:
        """Copy the buffers before a step."""
        with torch.no_grad():
            if self._buffers:
                torch._foreach_copy_(self._held, self._buffers)

    def undo(self) -> None:
        """Restore the buffers of before the step."""
        with torch.no_grad():
            if self._buffers:
                torch._foreach_copy_(self._buffers, self._held)

    def state_dict(self) -> dict[str, Any]:
        """Return the count."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        self.count = state["count"]


def listed(images: Sequence[str]) -> str:
    """Return a sentence that names the first images of a batch."""
    if not images:
        return "The images of the batch have no names."
    more = f" and {len(images) - NAMED} more (metrics.jsonl names them)" if len(images) > NAMED else ""
    return f"Images of the batch: {', '.join(images[:NAMED])}{more}."
