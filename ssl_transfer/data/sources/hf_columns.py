"""Find the image and label columns of a Hugging Face data set."""

from collections.abc import Mapping
from typing import Any

from ssl_transfer.engine.errors import InputError

_LABELS = ("label", "labels", "class", "target", "category", "class_name")


def image_column(source: str, options: Mapping[str, str], features: Mapping[str, Any]) -> str:
    """Return the column of images: the only one, or the one that the user names."""
    import datasets

    columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if "image" in options and options["image"] in columns:
        return options["image"]
    if "image" in options or len(columns) != 1:
        found = f"the image columns {', '.join(columns)}" if columns else f"no image column among {', '.join(features)}"
        remedy = f" Choose one, as in {source.partition(',')[0]},image={columns[0]}." if columns else ""
        raise InputError(f"--data {source}: has {found}.{remedy}")
    return columns[0]


def label_column(source: str, options: Mapping[str, str], features: Mapping[str, Any], image: str) -> str | None:
    """Return the column of labels: the user's, else the only one of classes, else the only one named so, else None."""
    import datasets

    if "label" in options:
        if options["label"] not in features or options["label"] == image:
            others = ", ".join(name for name in features if name != image)
            raise InputError(f"--data {source}: label={options['label']}, but it has the columns {others}.")
        columns = [options["label"]]
    else:
        columns = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
        columns = columns or [name for name in features if name.lower() in _LABELS]
    if len(columns) > 1:
        raise InputError(
            f"--data {source}: has the label columns {', '.join(columns)}. Choose one, as in "
            f"{source},label={columns[0]}."
        )
    if columns and not is_scalar(features[columns[0]]):
        raise InputError(
            f"--data {source}: the column {columns[0]} holds {features[columns[0]]}; one label an image is read, a "
            "class, a whole number or a text. Name another with label=COLUMN."
        )
    return columns[0] if columns else None


def is_scalar(feature: Any) -> bool:
    """Test if a column holds one class, integer, boolean or text a row."""
    import datasets

    kinds = ("int", "uint", "bool", "string", "large_string")
    return isinstance(feature, datasets.ClassLabel) or (
        isinstance(feature, datasets.Value) and feature.dtype.rstrip("0123456789") in kinds
    )
