"""Take --config, --augmentation and the name of a method off the command line.

None of the three is a field: a run keeps the values that they lead to.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ssl_transfer.data.transforms.presets import KINDS, preset
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.terminal import say

from .augmentation_flag import NATURAL, adapted

T = TypeVar("T")
AUGMENTATION = configuration.Extra(
    flag="--augmentation",
    values=tuple(KINDS),
    help="--augmentation KIND chooses the defaults of all augment settings for a kind of images; flags and the file "
    "win over it:\n" + "\n".join(f"  {kind:10} {summary}" for kind, summary in KINDS.items()),
)


def take_images(arguments: Sequence[str]) -> tuple[str, dict[str, Any], list[str]]:
    """Return the kind of images, the settings of --config and the other arguments; a flag wins over the file."""
    settings, rest = configuration.take_config(arguments)
    flag = AUGMENTATION.flag
    kind, rest = configuration.take_flag(rest, flag, f"{flag} needs a kind of images: {', '.join(KINDS)}.")
    held = str(settings.pop(flag.removeprefix("--"), NATURAL))
    kind = held if kind is None else kind
    preset("contrastive", kind)  # refuses an unknown kind
    return kind, settings, rest


def take_method(
    arguments: Sequence[str], usage: str, summaries: Mapping[str, str]
) -> tuple[str, str, dict[str, Any], list[str]]:
    """Return the method, the kind of images, the settings of --config and the other arguments.

    The method may also stand in the --config file as `method: {name: ...}`. `--help` without a method lists the methods
    and ends the program; `usage` is the head of that list, `summaries` has a sentence for each method.

    Raises:
        InputError: no method is named.
    """
    images, settings, rest = take_images(arguments)
    method = settings.get("method")
    name = method.pop("name", None) if isinstance(method, dict) else None
    if rest and not rest[0].startswith("-"):
        name = rest.pop(0)
    if name is None:
        width = max(map(len, summaries)) + 1
        listed = [*usage.split("\n"), *(f"  {key:{width}} {summary}" for key, summary in summaries.items())]
        if set(rest) & {"-h", "--help"}:
            say(*listed)
            sys.exit(0)
        raise InputError("which method?", *listed)
    return name, images, settings, rest


def parse_for_images(default: T, arguments: Sequence[str], program: str) -> T:
    """Parse a configuration whose augmentations --augmentation sets."""
    images, settings, rest = take_images(arguments)
    fitted = adapted(default, images)
    return configuration.parse(type(default), settings, rest, program=program, default=fitted, extra=[AUGMENTATION])
