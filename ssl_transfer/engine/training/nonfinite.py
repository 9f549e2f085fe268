"""Steps that are not taken because their loss is not finite: undone, counted, and at some number the end."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .objective import Objective

NAMED = 8
"""Images of a batch that a message names; the log has them all."""


class Skips:
    """How many steps were skipped, and what a forward pass changed beside the weights.

    BatchNorm's statistics, a queue, a centre take in the features of each forward pass; of those that are not finite
    they would be spoilt for good.

    Args:
        objective: its buffers are written in place.
        limit: so many may be skipped.
    """

    def __init__(self, objective: Objective, limit: int) -> None:
        self.count, self.limit = 0, limit
        self._buffers: list[Tensor] = list(objective.buffers())
        self._held = [buffer.clone() for buffer in self._buffers]

    @property
    def too_many(self) -> bool:
        """Whether more were skipped than may be."""
        return self.count > self.limit

    def keep(self) -> None:
        """Remember the buffers as they are before a step."""
        with torch.no_grad():
            if self._buffers:
                torch._foreach_copy_(self._held, self._buffers)

    def undo(self) -> None:
        """Put the buffers back."""
        with torch.no_grad():
            if self._buffers:
                torch._foreach_copy_(self._buffers, self._held)

    def state_dict(self) -> dict[str, Any]:
        """The count."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.count = state["count"]


def named(images: Sequence[str]) -> str:
    """The images of a batch in a sentence."""
    if not images:
        return "The images of the batch have no names."
    more = f" and {len(images) - NAMED} more (metrics.jsonl names them)" if len(images) > NAMED else ""
    return f"Images of the batch: {', '.join(images[:NAMED])}{more}."
