"""Start accelerate, and check that its device and processes are those that the launcher asked for."""

import atexit
import functools
import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object

from ssl_transfer.engine import terminal
from ssl_transfer.engine.errors import InputError

from .device_memory import keep_freed_memory

MixedPrecision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Hold the device and the processes of a run. All stages of a process share one."""

    accelerator: Accelerator

    @property
    def device(self) -> torch.device:
        """Return the device of this process."""
        return self.accelerator.device

    @property
    def process_index(self) -> int:
        """Return the rank of this process, 0 .. num_processes - 1."""
        return self.accelerator.process_index

    @property
    def num_processes(self) -> int:
        """Return the world size."""
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        """Return whether this process is rank 0, the only one that writes files."""
        return self.accelerator.is_main_process

    def say(self, *lines: str) -> None:
        """Print lines on rank 0."""
        if self.is_main:
            terminal.say(*lines)

    def warn(self, *lines: str) -> None:
        """Print lines on rank 0 to the error stream, which stays visible if the output is piped."""
        if self.is_main:
            terminal.say(*lines, error=True)

    def wait(self) -> None:
        """Wait until every process calls this."""
        self.accelerator.wait_for_everyone()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over processes, element by element."""
        return self.accelerator.reduce(values, reduction="mean") if self.num_processes > 1 else values

    def from_main(self, text: str) -> str:
        """Return rank 0's text on every process."""
        return broadcast_object_list([text])[0] if self.num_processes > 1 else text

    def number_from_main(self, value: float) -> float:
        """Return rank 0's number on every process, to the bit."""
        return float(self.from_main(repr(value)))

    def gathered(self, names: Sequence[str]) -> list[str]:
        """Return the names of all processes, in rank order, on every process."""
        return list(gather_object(list(names))) if self.num_processes > 1 else list(names)

    def describe(self) -> str:
        """Describe device, processes and precision in one line."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        plural = "process" if self.num_processes == 1 else "processes"
        return f"{self.num_processes} {plural} on {name}, mixed precision: {self.accelerator.mixed_precision}"


def start(mixed_precision: MixedPrecision = "no", *, deterministic: bool = False) -> Runtime:
    """Start the runtime of this process.

    Args:
        mixed_precision: precision of autocast.
        deterministic: a GPU computes the same bits each time
            (https://docs.pytorch.org/docs/stable/notes/randomness).

    Raises:
        InputError: precision or processes are not those of the launcher. Without `ACCELERATE_USE_CPU=true` every CPU
            process under torchrun starts as the only one, and all of them would write.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and not torch.accelerator.is_available() and "ACCELERATE_USE_CPU" not in os.environ:
        raise InputError(
            f"The launcher started {launched} processes, which without a GPU would not find each other. "
            "Set ACCELERATE_USE_CPU=true before the command."
        )
    if deterministic:
        # cuBLAS reads it at its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # Uninitialised memory is never read here, so filling it would only take time.
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
        # A notebook may train in one precision and evaluate in another; the processes stay.
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
    """Freeze the objects of imported libraries, once, so that garbage collection does not search them."""
    gc.freeze()
    # Some libraries report frozen objects as leaks at exit.
    atexit.register(gc.unfreeze)
