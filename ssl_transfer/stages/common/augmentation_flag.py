"""Set every augmentation in a configuration to the defaults for a kind of images (`--augmentation KIND`)."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.transforms.augment import AugmentConfig, ignored
from ssl_transfer.data.transforms.presets import preset, views_of

T = TypeVar("T")
NATURAL = "natural"


def adapted(config: T, kind: str) -> T:
    """Return the configuration with every augmentation adapted from photographs to a kind of images.

    Args:
        config: dataclass of settings: of a method, a stage or a comparison.
        kind: name in `data.transforms.presets.KINDS`.
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
    """Describe the images, and the operations of the augmentations that do not apply to their channels."""
    augments = [augment for config in configs for augment in _augments(config)]
    names = sorted({name for augment in augments for name in ignored(augment, dataset.num_channels)})
    line = f"{', '.join(names)} of the augmentation are for RGB, not for {dataset.num_channels} channel(s): left out."
    return "\n".join([dataset.describe(), *([line] if names else [])])


def _augments(config: Any) -> list[AugmentConfig]:
    if isinstance(config, AugmentConfig):
        return [config]
    inside = [getattr(config, field.name) for field in fields(config)] if is_dataclass(config) else []
    return [augment for value in inside for augment in _augments(value)]
