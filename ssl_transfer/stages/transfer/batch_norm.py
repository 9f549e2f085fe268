"""Resolve `--batch-norm auto` for a run."""

from typing import Literal

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.stages.common.run import Run

from .config import PlannedConfig


def batch_norm_of(config: PlannedConfig, run: Run | None, dataset: Dataset) -> Literal["train", "frozen"]:
    """Return how BatchNorm's statistics are treated in layers that are trained.

    Statistics of other images are worse than those of the batches for random weights, and better than those of few
    small batches for trained ones.

    Args:
        config: settings of the run.
        run: that `init` names; None for random or public weights.
        dataset: images of the run.
    """
    if config.batch_norm != "auto":
        return config.batch_norm
    trains_backbone = any(phase.trained != "head" for phase in config.phases(steps_per_epoch=1))
    if config.init == "scratch" or not trains_backbone:
        return "train"
    if run is not None and run.provenance.get("data_fingerprint") == dataset.fingerprint:
        return "train"
    return "frozen"
