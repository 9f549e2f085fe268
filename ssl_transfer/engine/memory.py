"""What becomes of memory that a step has freed."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


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
