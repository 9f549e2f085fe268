"""Adapt the augmentation of a method to a kind of images.

A method's own defaults are the starting point, so that a preset changes only what its images require. The values for
digits were measured on the embedded ones (docs/decisions.md); the others follow from properties of the images.
"""

from dataclasses import Field, field, replace
from typing import Any, Literal

from ssl_transfer.engine.errors import InputError, did_you_mean

from .augment import RECONSTRUCTION_DEFAULT, SUPERVISED_DEFAULT, AugmentConfig

Views = Literal["contrastive", "reconstruction", "supervised"]
"""Purpose of views: contrastive (recognised as one image), reconstruction, or supervised (classified)."""
_PURPOSE = "views"
"""Key of the purpose in the metadata of a configuration's field."""

KINDS = {
    "natural": "photographs, upright",
    "greyscale": "no colours to change; solarised now and then",
    "texture": "surfaces and aerial images: no upper side, so all rotations and both flips, and milder crops",
    "digits": "characters on black: never flipped, turned and slanted a little, larger and smaller",
}
"""Kinds of images, and the changes for them."""

_DEFAULTS: dict[Views, AugmentConfig] = {
    "contrastive": AugmentConfig(),
    "reconstruction": RECONSTRUCTION_DEFAULT,
    "supervised": SUPERVISED_DEFAULT,
}
_COLOURLESS: dict[str, Any] = {"saturation": 0.0, "hue": 0.0, "grey": 0.0}
_WRITTEN: dict[str, Any] = {"padding": "zeros", "flip": 0.0, "vertical_flip": 0.0, **_COLOURLESS}
_DIGITS: dict[Views, dict[str, Any]] = {
    "contrastive": {
        "crop_scale": (0.6, 1.6),
        "crop_ratio": (0.8, 1.25),
        "rotation": 20.0,
        "shear": 15.0,
        "jitter": 1.0,
        "brightness": 0.4,
        "contrast": 0.4,
        "blur": 0.3,
        "blur_sigma": (4.0, 10.0),
    },
    "reconstruction": {"crop_scale": (0.7, 1.4), "crop_ratio": (0.8, 1.25), "rotation": 15.0, "shear": 10.0},
    "supervised": {"crop_scale": (0.8, 1.25), "crop_ratio": (1.0, 1.0), "rotation": 10.0, "shear": 6.0},
}


def augment_field(views: Views, default: AugmentConfig) -> Any:
    """Declare a configuration field whose augmentation makes views that are not contrastive."""
    return field(default=default, metadata={_PURPOSE: views})


def views_of(declared: "Field[Any]") -> Views:
    """Return the purpose of a configuration field's views: contrastive unless `augment_field` declared another."""
    return declared.metadata.get(_PURPOSE, "contrastive")


def preset(views: Views, kind: str, base: AugmentConfig | None = None) -> AugmentConfig:
    """Return the augmentation for a kind of images.

    Args:
        views: purpose of the views.
        kind: a name in KINDS.
        base: the settings for photographs to adapt; by default those of `views`.
    """
    if kind not in KINDS:
        raise InputError(f"--augmentation {kind}: there are {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")
    base = base or _DEFAULTS[views]
    if kind == "greyscale":
        # Without colours images differ less; inverted lights and shadows replace some of the variation.
        return replace(base, **_COLOURLESS, solarise=max(base.solarise, 0.1 if views == "contrastive" else 0.0))
    if kind == "texture":
        low, high = base.crop_scale
        return replace(base, crop_scale=(min(high, max(low, 0.4)), high), rotation=180.0, flip=0.5, vertical_flip=0.5)
    return replace(base, **_WRITTEN, **_DIGITS[views]) if kind == "digits" else base
