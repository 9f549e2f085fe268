"""Measure peak memory, and keep freed memory for the next step."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_PROCESS = Path("/proc/self")
"""Linux's files about this process; absent on other systems."""


def keep_freed_memory() -> None:
    """Keep freed memory in the process, up to a gigabyte, instead of returning it to the system.

    A training step allocates and frees the same megabytes each time. By default glibc returns them, and the system
    clears every page again at its first use. On one core that took a quarter of the demo's training. Other C libraries
    keep their defaults.
    """
    if sys.platform != "linux":
        return
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    library.mallopt(_TRIM_THRESHOLD, 2**30)
    library.mallopt(_MMAP_THRESHOLD, 2**25)


def reset_peak(device: torch.device) -> None:
    """Reset the peak, so that a run does not report the memory of an earlier run in the same process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _PROCESS.is_dir():
        # Writing 5 lowers the high-water mark to the resident memory of now (man 5 proc).
        with contextlib.suppress(OSError):
            (_PROCESS / "clear_refs").write_text("5")


def peak_mb(device: torch.device) -> float:
    """Return the peak since `reset_peak`. CUDA: memory of tensors. CPU: resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if _PROCESS.is_dir():
        lines = (_PROCESS / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
