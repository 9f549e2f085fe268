"""`--augmentation KIND`: the defaults of every augmentation in a configuration, for one kind of images.

It is no field: a run keeps the values, which single flags and files of settings can change as ever.
"""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.transforms.augment import AugmentConfig, ignored
from ssl_transfer.data.transforms.presets import KINDS, preset, views_of
from ssl_transfer.engine.errors import InputError

T = TypeVar("T")
FLAG = "--augmentation"
NATURAL = "natural"
HELP = (
    f"{FLAG} KIND chooses the defaults of all augment settings for a kind of images; flags and the file win over it:\n"
    + "\n".join(f"  {kind:10} {summary}" for kind, summary in KINDS.items())
)
"""For a command's --help."""


def take(settings: dict[str, Any], arguments: Sequence[str]) -> tuple[str, dict[str, Any], list[str]]:
    """Take the kind out of a file's settings and the user's arguments, which win: the kind, and what is left."""
    left, rest = dict(settings), list(arguments)
    kind = left.pop("augmentation", NATURAL)
    for position, argument in enumerate(rest):
        if argument == FLAG and position + 1 == len(rest):
            raise InputError(f"{FLAG} needs a kind of images: {', '.join(KINDS)}.")
        if argument == FLAG or argument.startswith(f"{FLAG}="):
            kind = rest[position + 1] if argument == FLAG else argument.partition("=")[2]
            rest = rest[:position] + rest[position + (2 if argument == FLAG else 1) :]
            break
    preset("contrastive", str(kind))  # finds a name that does not exist
    return str(kind), left, rest


def adapted(config: T, kind: str) -> T:
    """The same configuration with every augmentation in it, taken as a default for photographs, for `kind`.

    Args:
        config: a dataclass of settings: of a method, a stage or a comparison.
        kind: a name in `data.presets.KINDS`.
    """
    if not is_dataclass(config) or isinstance(config, type):
        return config
    changed: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, AugmentConfig):
            changed[field.name] = preset(views_of(field), kind, value)
        elif is_dataclass(value):
            changed[field.name] = adapted(value, kind)
    return replace(config, **changed)


def introduce(dataset: Dataset, *configs: Any) -> str:
    """What a stage says of its images, and which operations of its augmentations they do not get."""
    augments = [augment for config in configs for augment in _augments(config)]
    names = sorted({name for augment in augments for name in ignored(augment, dataset.num_channels)})
    line = f"{', '.join(names)} of the augmentation are for RGB, not for {dataset.num_channels} channel(s): left out."
    return "\n".join([dataset.describe(), *([line] if names else [])])


def _augments(config: Any) -> list[AugmentConfig]:
    """Every augmentation in a configuration."""
    if isinstance(config, AugmentConfig):
        return [config]
    inside = [getattr(config, field.name) for field in fields(config)] if is_dataclass(config) else []
    return [augment for value in inside for augment in _augments(value)]
