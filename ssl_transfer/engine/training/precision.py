"""Refuse convolutions whose bfloat16 gradient torch computes wrongly on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.objective import Objective


@contextmanager
def refused_where_wrong(objective: Objective, runtime: Runtime) -> Iterator[None]:
    """Raise InputError in the `with` block for a convolution whose bfloat16 gradient is wrong on this device.

    Measured with torch 2.15 on a CPU: for a 3 x 3 kernel with stride 2 on a map of one pixel, the gradient of kernel
    elements that see padding alone is uninitialised memory. Stride 1, and maps of two to four pixels, are right.
    """
    on_cpu = runtime.device.type == "cpu" and runtime.accelerator.mixed_precision == "bf16"
    convolutions = [one for one in objective.modules() if isinstance(one, nn.Conv2d) and on_cpu]
    strided = [one for one in convolutions if max(one.stride) > 1 and max(one.kernel_size) > 1]
    hooks = [one.register_forward_pre_hook(_refuse) for one in strided]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _refuse(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    if min(arguments[0].shape[-2:]) == 1:
        raise InputError(
            f"--mixed-precision bf16: on a CPU, torch computes a wrong gradient of {module} on maps of one pixel. "
            "Give a larger --image-size, --backbone.stem small, or --mixed-precision no."
        )
