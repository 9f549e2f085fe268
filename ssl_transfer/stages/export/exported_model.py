"""Load the model of an export, and list the facts that its users need."""

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import timm
import torch
import torchvision

from ssl_transfer.models.backbones import Backbone
from ssl_transfer.models.classifier import Classifier, Scoring
from ssl_transfer.stages.common.run import Run


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A run's model on the CPU, in evaluation mode."""

    run: Run
    backbone: Backbone
    classifier: Classifier | None
    """None for a backbone alone, which computes features."""

    @property
    def module(self) -> Scoring:
        """Return the model as one module: images (B, C, S, S) in 0..1 to `output`."""
        return Scoring(self.backbone, self.classifier).eval()

    @property
    def output(self) -> str:
        """Kind of the module's output: scores or features."""
        return "features" if self.classifier is None else "scores"

    @property
    def crop(self) -> float:
        """Share of the central square that the model takes."""
        size, side = self.backbone.spec.image_size, self.run.storage.layout.side
        return max(size, side * 7 // 8) / side if side > size else 1.0


def load_exported(run: Run) -> Exported:
    """Load a run's model, or its backbone alone.

    Raises:
        InputError: nothing is exported there.
    """
    backbone = run.load_backbone().eval()
    return Exported(run=run, backbone=backbone, classifier=run.load_classifier(backbone) if run.has_head else None)


def facts(exported: Exported, *, normalised_inside: bool, usage: str, difference: float) -> dict[str, Any]:
    """List the facts of the JSON file beside the weights.

    Args:
        exported: see its fields.
        normalised_inside: the file takes images in 0..1; otherwise its user normalises them.
        usage: Python that loads it and runs it on `images`.
        difference: largest difference to the run's own model.
    """
    spec = exported.backbone.spec
    low, high = exported.run.storage.value_range
    return {
        "made_by": f"ssl_transfer {metadata.version('ssl_transfer')}",
        "weights_fingerprint": exported.run.backbone_file.fingerprint,
        "backbone": spec.label,
        "stem": spec.stem,
        "output": exported.output,
        "classes": list(exported.run.classes),
        "input": {
            "shape": ["batch", spec.in_chans, spec.image_size, spec.image_size],
            "dtype": "float32",
            "zero_and_one": [low, high],
            "mean": list(spec.mean),
            "std": list(spec.std),
            "normalised_inside": normalised_inside,
            "interpolation": spec.interpolation,
            "resized_shorter_side": exported.run.storage.layout.side,
            "crop_share": exported.crop,
        },
        "temperature": exported.run.temperature.value,
        "largest_difference": difference,
        "usage": usage,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "timm": timm.__version__,
        },
    }
