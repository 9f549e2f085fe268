"""Commands that begin with the name of a method: `pretrain simclr ...`, `adapt dann ...`."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError

from . import augmentation_flag as augmentations


def take_method(
    arguments: Sequence[str], usage: str, summaries: Mapping[str, str]
) -> tuple[str, str, dict[str, Any], list[str]]:
    """The method, the kind of images, the settings of --config and the flags that are left.

    The method may also stand in the --config file as `method: {name: ...}`. Asked for help without one, the methods are
    listed and the program ends.

    Args:
        arguments: of the command line.
        usage: what is said before the list of methods.
        summaries: a sentence for each method.

    Raises:
        InputError: no method is named.
    """
    settings, rest = configuration.take_config(arguments)
    images, settings, rest = augmentations.take(settings, rest)
    method_settings = settings.get("method")
    name = method_settings.pop("name", None) if isinstance(method_settings, dict) else None
    if rest and not rest[0].startswith("-"):
        name = rest.pop(0)
    if name is None:
        width = max(map(len, summaries)) + 1
        listed = "\n".join([usage, *(f"  {key:{width}} {summary}" for key, summary in summaries.items())])
        if set(rest) & {"-h", "--help"}:
            print(listed)
            sys.exit(0)
        raise InputError(f"which method?\n{listed}")
    return name, images, settings, rest
