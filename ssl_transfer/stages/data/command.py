"""Dispatch `ssl-transfer data`: check, preview, cache."""

import importlib
import sys
from collections.abc import Sequence

from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.terminal import say

COMMANDS = {
    "check": ("check", "unreadable files, copies within and across parts, classes, sizes, colours; as a page"),
    "preview": ("preview", "draw views of some images, as each method's augmentation makes them"),
    "cache": ("cache_command", "list the decoded pixels that are kept on disk, or remove them"),
}
USER_ERROR = 2


def usage(program: str) -> str:
    """List the subcommands."""
    lines = "\n".join(f"  {name:8} {summary}" for name, (_, summary) in COMMANDS.items())
    return f"usage: {program} COMMAND [--help] [flags]\n\n{lines}"


def main(arguments: Sequence[str], program: str = "ssl-transfer data") -> None:
    """Run `data check DATA`, `data preview --data DATA` or `data cache`."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        say(*usage(program).split("\n"))
        sys.exit(0 if arguments else USER_ERROR)
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputError(
            f"{name!r} is not a command of data.{did_you_mean(name, COMMANDS)}", "", *usage(program).split("\n")
        )
    # Each is imported when it is called: listing the cache needs no drawing.
    importlib.import_module(f".{COMMANDS[name][0]}", __package__).main(rest, f"{program} {name}")
