"""What is exported of a run: its model as one module, and the facts that whoever uses it needs beside it."""

import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from ssl_transfer.data.loading_config import LoadingConfig, Range
from ssl_transfer.data.store.decode import Layout
from ssl_transfer.engine.io import weight_files
from ssl_transfer.models import pretrained
from ssl_transfer.models.backbones import Backbone
from ssl_transfer.models.classifier import Classifier, Scoring, has_head
from ssl_transfer.stages.predict.loaded_run import images_of, load_model


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A run's model on the CPU, in evaluation mode."""

    path: Path
    backbone: Backbone
    classifier: Classifier | None
    """None: a backbone alone, which gives features."""
    classes: tuple[str, ...]
    """In the order of the scores; empty for a backbone alone."""
    temperature: float | None
    layout: Layout
    """How its images were stored."""
    value_range: Range
    loading: LoadingConfig
    provenance: dict[str, Any]

    @property
    def module(self) -> Scoring:
        """Images (B, C, S, S) in 0..1 to `output`."""
        return Scoring(self.backbone, self.classifier).eval()

    @property
    def output(self) -> str:
        """What the module gives: scores or features."""
        return "features" if self.classifier is None else "scores"

    @property
    def crop(self) -> float:
        """The share of the middle square that the model sees."""
        size, side = self.backbone.spec.image_size, self.layout.side
        return max(size, side * 7 // 8) / side if side > size else 1.0


def load_exported(path: Path) -> Exported:
    """What a run leaves, or its `backbone/` alone.

    Raises:
        InputError: nothing exported there.
    """
    description = weight_files.load_description(path, "backbone")
    if has_head(path):
        model = load_model(path)
        return Exported(
            path=path,
            backbone=model.classifier.backbone,
            classifier=model.classifier,
            classes=model.classes,
            temperature=model.temperature,
            layout=model.layout,
            value_range=model.value_range,
            loading=model.loading,
            provenance=description["provenance"],
        )
    backbone, provenance = pretrained.from_checkpoint(path)
    layout, value_range, loading, _ = images_of(path, backbone.spec)
    return Exported(
        path=path,
        backbone=backbone.eval(),
        classifier=None,
        classes=(),
        temperature=None,
        layout=layout,
        value_range=value_range,
        loading=loading,
        provenance=provenance,
    )


def facts(exported: Exported, *, normalised_inside: bool, usage: str, difference: float) -> dict[str, Any]:
    """What stands in the JSON file beside the weights.

    Args:
        exported: see its fields.
        normalised_inside: whether the file takes images in 0..1, or subtracting mean and dividing by std is the user's.
        usage: Python that loads it and runs it on `images`.
        difference: the largest that was found to the run's own model.
    """
    spec = exported.backbone.spec
    low, high = exported.value_range
    return {
        "made_by": f"ssl_transfer {metadata.version('ssl_transfer')}",
        "weights_fingerprint": weight_files.weights_fingerprint(exported.path, "backbone"),
        "backbone": spec.label,
        "stem": spec.stem,
        "output": exported.output,
        "classes": list(exported.classes),
        "input": {
            "shape": ["batch", spec.in_chans, spec.image_size, spec.image_size],
            "dtype": "float32",
            "zero_and_one": [low, high],
            "mean": list(spec.mean),
            "std": list(spec.std),
            "normalised_inside": normalised_inside,
            "interpolation": spec.interpolation,
            "resized_shorter_side": exported.layout.side,
            "crop_share": exported.crop,
        },
        "temperature": exported.temperature,
        "largest_difference": difference,
        "usage": usage,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "timm": timm.__version__,
        },
    }
