"""Resolve `--batch-norm auto` of a transfer run."""

from typing import Literal

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.stages.common.run import Run

from .config import PlannedConfig


def batch_norm_of(config: PlannedConfig, run: Run | None, dataset: Dataset) -> Literal["train", "frozen"]:
    """Choose the treatment of BatchNorm's statistics in trained layers for `--batch-norm auto`.

    With few labelled images the statistics of the batches are noise. Weights that were trained on other images bring
    better ones; random weights bring none.

    Args:
        config: settings of the run.
        run: that `init` names; None for random or public weights.
        dataset: images of the run.
    """
    if config.init == "scratch" or not config.leaves_batch_norm_open:
        return "train"
    if run is not None and run.provenance.get("data_fingerprint") == dataset.fingerprint:
        return "train"
    return "frozen"
