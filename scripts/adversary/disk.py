"""Mount a small disk that can be filled."""

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

SIZE = 256 * 2**20
"""Bytes of a disk."""


def mount(place: Path, *options: str) -> bool:
    """Mount a disk in memory at an existing folder; return False where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


class Disk:
    """A small disk, mounted where that is allowed; otherwise a folder. A `with` block unmounts it.

    Args:
        place: the folder, which must not exist yet.
        size: bytes.
    """

    def __init__(self, place: Path, *, size: int = SIZE) -> None:
        self.place, self.size = place, size
        place.mkdir()
        self.is_mounted = mount(place, f"size={size}")
        if self.is_mounted:
            # A size of zero would mean: no limit.
            (place / ".ballast").write_bytes(bytes(4096))

    def __enter__(self) -> "Disk":
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.place)], check=True)  # noqa: S603, S607

    @contextlib.contextmanager
    def left(self, count: int) -> Iterator[None]:
        """Leave so many bytes of the disk for the `with` block; without a mount, limit the size of each file."""
        if self.is_mounted:
            found = os.statvfs(self.place)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            self._resize(used + count)
            try:
                yield
            finally:
                self._resize(self.size)
        else:
            before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (count, limits[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
                signal.signal(signal.SIGXFSZ, before)

    def _resize(self, size: int) -> None:
        options = f"remount,size={size}"
        subprocess.run(["mount", "-o", options, str(self.place)], check=True)  # noqa: S603, S607
