"""Where a run runs: the Accelerator, its device and processes, and a guard that they are those asked for."""

import atexit
import functools
import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.redaction import redacted

from .device_memory import keep_freed_memory

MixedPrecision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The device and the processes of this run. Every stage of one process shares one."""

    accelerator: Accelerator

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @property
    def process_index(self) -> int:
        """The rank of this process, 0 .. num_processes - 1."""
        return self.accelerator.process_index

    @property
    def num_processes(self) -> int:
        """How many processes train together (the world size)."""
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes: rank 0 alone does."""
        return self.accelerator.is_main_process

    def say(self, message: str) -> None:
        """Print on rank 0."""
        if self.is_main:
            print(redacted(message), flush=True)

    def warn(self, message: str) -> None:
        """Print to the error stream on rank 0: what must be seen also where the rest is piped away."""
        if self.is_main:
            print(redacted(message), file=sys.stderr, flush=True)

    def wait(self) -> None:
        """Return when every process has come here."""
        self.accelerator.wait_for_everyone()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over processes, element by element."""
        return self.accelerator.reduce(values, reduction="mean") if self.num_processes > 1 else values

    def from_main(self, text: str) -> str:
        """Rank 0's text, on every process."""
        return broadcast_object_list([text])[0] if self.num_processes > 1 else text

    def gathered(self, names: Sequence[str]) -> list[str]:
        """Every process's, in rank order, on each of them."""
        return list(gather_object(list(names))) if self.num_processes > 1 else list(names)

    def describe(self) -> str:
        """One line for people: device, processes, precision."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        plural = "process" if self.num_processes == 1 else "processes"
        return f"{self.num_processes} {plural} on {name}, mixed precision: {self.accelerator.mixed_precision}"


def start(mixed_precision: MixedPrecision = "no", *, deterministic: bool = False) -> Runtime:
    """The runtime of this process.

    `deterministic` lets a GPU compute the same bits each time (https://docs.pytorch.org/docs/stable/notes/randomness).

    Raises InputError when the launcher started another number of processes than have joined: without
    `ACCELERATE_USE_CPU=true` every CPU process under torchrun believes that it is alone, and they would all write.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and not torch.accelerator.is_available() and "ACCELERATE_USE_CPU" not in os.environ:
        raise InputError(
            f"The launcher started {launched} processes, which without a GPU would not find each other. "
            "Set ACCELERATE_USE_CPU=true before the command."
        )
    if deterministic:
        # Read when cuBLAS is first used, which was not yet.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # What nobody has written is never read here: filling it would be for nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _forget_imports()
    keep_freed_memory()
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", mixed_precision):
        raise InputError(
            f"The launcher asks for mixed precision {asked} and the command for {mixed_precision}: "
            f"add --mixed-precision {asked}."
        )
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed_precision:
        # A notebook may train in one precision and measure in another; the processes stay as they are.
        AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=mixed_precision)
    if mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("--mixed-precision fp16 is for GPUs; a CPU has bf16 and no.")
    if accelerator.num_processes != launched:
        raise InputError(
            f"The launcher started {launched} processes and {accelerator.num_processes} joined. On CPUs launch with "
            "`ACCELERATE_USE_CPU=true python -m torch.distributed.run --nproc_per_node N recipes/...`."
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise InputError(
            f"The launcher asks for {accelerator.gradient_accumulation_steps} gradient accumulation steps, which would "
            "only scale the gradient here. Launch without: --batch-size is the batch of one step, and "
            "--optimizer.accumulate the number of parts it is taken in."
        )
    return Runtime(accelerator=accelerator)


@functools.cache
def _forget_imports() -> None:
    """Once: take what the libraries hold out of the collector's sight, which it would search after every training."""
    gc.freeze()
    # Some libraries report what is still frozen at the end as leaks.
    atexit.register(gc.unfreeze)
