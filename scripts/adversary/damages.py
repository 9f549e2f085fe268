"""Damage a file, or let the machine kill a command or refuse its writes."""

import errno
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

FILE_DAMAGES = ("flip", "cut", "blank", "delete", "swap")
KILL, FULL, REFUSED = "kill", "full", "refused writes"
DAMAGES = (*FILE_DAMAGES, KILL, FULL, REFUSED)
EventHook = Callable[[int, str], None]


def damage_file(kind: str, files: Sequence[Path], choices: random.Random) -> list[Path]:
    """Flip a bit, cut, blank, delete or swap one of these files; return the changed ones."""
    path = choices.choice(files)
    content = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
        return [path]
    if kind == "swap":
        others = [one for one in files if one != path and one.suffix == path.suffix] or [path]
        other = choices.choice([one for one in others if one.name == path.name] or others)
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
        return [path, other]
    if content and kind == "flip":
        content[choices.randrange(len(content))] ^= 1 << choices.randrange(8)
    elif content and kind == "cut":
        content = content[: choices.randrange(len(content))]
    elif kind == "blank":
        content = bytearray(len(content))
    path.write_bytes(content)
    return [path]


def hook_of(kind: str, moment: int) -> EventHook:
    """Return a hook that kills the process at its n-th file event, or refuses writes from there on."""

    def kill(count: int, _: str) -> None:
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def refuse(count: int, name: str) -> None:
        if count >= moment and name in ("open", "os.mkdir", "os.fsync"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return kill if kind == KILL else refuse
