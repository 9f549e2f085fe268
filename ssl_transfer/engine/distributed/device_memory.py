"""Memory: how much a training took, and what becomes of what a step has freed."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_PROCESS = Path("/proc/self")
"""Linux's files about this process; elsewhere absent."""


def keep_freed_memory() -> None:
    """Keep what is freed for the next tensor, up to a gigabyte, instead of giving it back to the system.

    A training step allocates and frees the same megabytes each time. By default glibc hands them back, and the system
    clears every page again at its first use: on one core a quarter of the demo's training went there. Other C
    libraries do as they do.
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
    """Start measuring anew, so that a run does not show what another run of the same process took."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _PROCESS.is_dir():
        # Writing 5 brings the high-water mark down to what is resident now (man 5 proc).
        with contextlib.suppress(OSError):
            (_PROCESS / "clear_refs").write_text("5")


def peak_mb(device: torch.device) -> float:
    """The most memory since then. CUDA: what tensors held. CPU: what the whole process held resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if _PROCESS.is_dir():
        lines = (_PROCESS / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
