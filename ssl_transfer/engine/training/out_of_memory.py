"""Gradients of batches that may not fit into memory: in more micro-batches, or with a word about what would fit."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.gradients import accumulate_gradient, check_accumulation

from .objective import Batch, Objective, Output

_FEWEST = 2
"""Images of a micro-batch: BatchNorm has no statistics of one."""


class Gradients:
    """The gradient of each step.

    Where memory does not suffice, an objective whose loss is a mean over images goes on with twice as many
    micro-batches, from the same step on, and keeps to that when it is resumed.

    Args:
        objective: in training mode.
        wrapped: the same as `accelerator.prepare_model` gave it.
        accumulate: micro-batches to begin with.
        phase: its name in messages.
        runtime: device and processes.
    """

    def __init__(
        self, objective: Objective, wrapped: nn.Module, *, accumulate: int, phase: str, runtime: Runtime
    ) -> None:
        self.accumulate = accumulate
        self._objective, self._wrapped, self._phase, self._runtime = objective, wrapped, phase, runtime

    def add(self, batch: Batch, begin: Callable[[], None], undo: Callable[[], None]) -> Output:
        """As `accumulate_gradient`.

        Args:
            batch: this process's images.
            begin: called before each forward pass: it puts torch's random state in its place.
            undo: called after one that did not fit: it puts the buffers back.

        Raises:
            InputError: the batch does not fit, and cannot be taken in parts.
        """
        while True:
            begin()
            try:
                return accumulate_gradient(self._wrapped, batch, self.accumulate, self._runtime.accelerator)
            except torch.OutOfMemoryError:
                # The exception holds on to the tensors of the pass; what follows begins when it is gone.
                pass
            self._free(undo)
            self._take_smaller_parts(batch, begin, undo)

    def _take_smaller_parts(self, batch: Batch, begin: Callable[[], None], undo: Callable[[], None]) -> None:
        runtime, count = self._runtime, len(batch.images)
        size = -(-count // self.accumulate)
        memory = f"{self._phase}: out of memory on {runtime.device} with {size} images at a time."
        if runtime.num_processes > 1:
            # The others are in the middle of an exchange with this process, which ends with it.
            raise InputError(
                f"{memory} This was process {runtime.process_index}; the others end with it. Lower --batch-size, give "
                "--optimizer.accumulate 2 where the method takes it, or --mixed-precision bf16."
            )
        if self._objective.loss_over_batch:
            fitting = self._fitting(batch, begin, undo)
            raise InputError(
                f"{memory} {type(self._objective).__name__} compares the images of a batch with each other, so that "
                f"it cannot be taken in parts. --batch-size {fitting} fits; or try --mixed-precision bf16."
                if fitting
                else f"{memory} Not even {_FEWEST} fit: take a smaller backbone or --image-size, or free the memory."
            )
        if size <= _FEWEST:
            raise InputError(f"{memory} Take a smaller backbone or --image-size, or free the device's memory.")
        self.accumulate *= 2
        runtime.warn(
            f"warning: {memory} Going on with --optimizer.accumulate {self.accumulate}: as many images a step, in "
            f"parts of {-(-count // self.accumulate)}."
        )
        check_accumulation(self._objective, self.accumulate, runtime)

    def _fitting(self, batch: Batch, begin: Callable[[], None], undo: Callable[[], None]) -> int:
        """The largest half, quarter, ... of a batch whose gradient can be computed; 0: none."""
        count = len(batch.images) // 2
        while count >= _FEWEST:
            begin()
            part = Batch(*(tensor[:count] for tensor in batch))
            try:
                accumulate_gradient(self._wrapped, part, 1, self._runtime.accelerator)
            except torch.OutOfMemoryError:
                fits = False
            else:
                fits = True
            self._free(undo)
            if fits:
                return count
            count //= 2
        return 0

    def _free(self, undo: Callable[[], None]) -> None:
        undo()
        self._objective.zero_grad(set_to_none=True)
        if self._runtime.device.type == "cuda":
            torch.cuda.empty_cache()

    def state_dict(self) -> dict[str, Any]:
        """The number of micro-batches."""
        return {"accumulate": self.accumulate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.accumulate = state["accumulate"] or self.accumulate
