"""Handle out-of-memory errors of a step: take more micro-batches, or report the batch size that fits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError

from .gradients import accumulate_gradient, check_accumulation
from .objective import Batch, Objective, Output

_FEWEST = 2
"""Fewest images of a micro-batch: BatchNorm has no statistics of one."""


class Gradients:
    """Compute the gradient of each step, in as many micro-batches as memory requires.

    Out of memory, an objective whose loss is a mean over images continues with twice as many micro-batches, from the
    same step on. A resumed training keeps their number.

    Args:
        objective: in training mode.
        wrapped: the objective as `accelerator.prepare_model` returns it.
        accumulate: number of micro-batches at the start.
        phase: its name in messages.
        runtime: device and processes.
    """

    def __init__(
        self, objective: Objective, wrapped: nn.Module, *, accumulate: int, phase: str, runtime: Runtime
    ) -> None:
        self.accumulate = accumulate
        self._objective, self._wrapped, self._phase, self._runtime = objective, wrapped, phase, runtime

    def add(self, batch: Batch, begin: Callable[[], None], undo: Callable[[], None]) -> Output:
        """Call `accumulate_gradient`, again with more micro-batches after an out-of-memory error.

        Args:
            batch: this process's images.
            begin: called before each forward pass: resets torch's random state.
            undo: called after a pass that did not fit: restores the buffers.

        Raises:
            InputError: the batch does not fit and cannot be split.
        """
        while True:
            begin()
            try:
                return accumulate_gradient(self._wrapped, batch, self.accumulate, self._runtime.accelerator)
            except torch.OutOfMemoryError:
                # The exception holds the tensors of the pass, so the retry starts after it is released.
                pass
            self._free(undo)
            self._take_smaller_parts(batch, begin, undo)

    def _take_smaller_parts(self, batch: Batch, begin: Callable[[], None], undo: Callable[[], None]) -> None:
        runtime, count = self._runtime, len(batch.images)
        size = -(-count // self.accumulate)
        memory = f"{self._phase}: out of memory on {runtime.device} with {size} images at a time."
        if runtime.num_processes > 1:
            # The other processes are in the middle of an exchange with this one.
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
        """Return the largest half, quarter, ... of a batch whose gradient fits into memory; 0 if none does."""
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
        """Return the number of micro-batches."""
        return {"accumulate": self.accumulate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        self.accumulate = state["accumulate"] or self.accumulate
