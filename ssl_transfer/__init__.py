"""Self-supervised pretraining plus transfer: does pretraining on your own images help, and at how many labels?

From a notebook: `pretrain(pretrain_config("simclr"))`, `transfer(TransferConfig(...))`, `adapt(AdaptConfig(...))`,
`distill(DistillConfig(...))`, `compare(CompareConfig(...))`, `report_section(folder)`, `predict(PredictConfig(...))`,
`export(ExportConfig(...))`, `load_backbone(path)`. Each is imported when it is first used, so that
`import ssl_transfer` is quick.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "pretrain": "stages.pretrain.pretrain",
    "PretrainConfig": "stages.pretrain.config",
    "default_recipe": "stages.pretrain.config",
    "pretrain_config": "stages.pretrain.config",
    "transfer": "stages.transfer.transfer",
    "TransferConfig": "stages.transfer.config",
    "adapt": "stages.adapt.adapt",
    "AdaptConfig": "stages.adapt.config",
    "ADAPTATIONS": "objectives",
    "distill": "stages.distill.distill",
    "DistillConfig": "stages.distill.config",
    "compare": "stages.compare.compare",
    "CompareConfig": "stages.compare.config",
    "METHODS": "methods",
    "predict": "stages.predict.predict",
    "PredictConfig": "stages.predict.predict",
    "export": "stages.export.export",
    "ExportConfig": "stages.export.export",
    "TransferRecipe": "stages.transfer.plans.recipe",
    "BackboneConfig": "models.backbones",
    "report_section": "reports.notebook",
}
__all__ = ["for_images", "load_backbone", "__version__", *_HOMES]


def load_backbone(path: str) -> Any:
    """Load the backbone of a run in evaluation mode: images (B, C, S, S) in 0..1 -> features (B, D)."""
    from pathlib import Path

    from ssl_transfer.stages.common.run import Run

    return Run(Path(path)).load_backbone().eval()


def for_images(config: Any, kind: str) -> Any:
    """Any settings with the augmentation for a kind of images: natural, greyscale, texture or digits."""
    from ssl_transfer.stages.common.augmentation_flag import adapted

    return adapted(config, kind)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        # The submodules of this package are named like functions in them, so the name is bound here once.
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
