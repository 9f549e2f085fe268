"""Write the outputs of a transfer run: model, evaluation, learning curves, learning-rate range test.

Called on rank 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.store.storage_layout import kept
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.io import atomic, weight_files
from ssl_transfer.engine.runs.run_folder import environment
from ssl_transfer.engine.tracking.artifacts import EXAMPLES
from ssl_transfer.engine.training.lr_finder import Finding
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.results import Results
from ssl_transfer.evaluation.predictions import metrics
from ssl_transfer.models import pretrained
from ssl_transfer.models.heads import HeadConfig

from .phases import Training
from .plans.phase_tree import Phase

NUM_EXAMPLES = 24
"""Test images that are kept as pictures."""


def write_model(
    training: Training,
    folder: Path,
    head: HeadConfig,
    origin: dict[str, Any],
    *,
    seen: np.ndarray | None,
    images: Dataset,
) -> None:
    """Export the objective's backbone and head.

    Args:
        training: holds the objective.
        folder: of the run.
        head: settings of the head.
        origin: provenance of the weights.
        seen: images that trained the weights, as in `Dataset.contents`.
        images: of the run; their storage is recorded, so that new images can be read in the same way.
    """
    provenance = {**origin, "environment": environment(training.runtime)}
    backbone = training.objective.backbone
    pretrained.export(backbone, folder / "backbone", provenance, images=kept(images), seen=seen)
    description = {"classes": list(training.dataset.classes), "head": configuration.to_dict(head)}
    weight_files.save_weights(folder / "head", "head", training.objective.head.state_dict(), description)


def write_predicted(folder: Path, logits: torch.Tensor) -> None:
    """Write the classes that the chosen model predicts for the test images, from its logits (N, K)."""
    atomic.save_array(
        folder / write_tables.PREDICTED, metrics.class_logits(logits).argmax(dim=1).numpy().astype(np.int32)
    )


def write_evaluation(
    folder: Path, classes: Sequence[str], held: Mapping[str, tuple[Dataset, torch.Tensor, torch.Tensor]]
) -> None:
    """Write the files of `evaluation/` from data set, indices (N,) and logits (N, K) of validation and test."""
    from ssl_transfer.reports import evaluation

    predictions = {
        name: evaluation.Predictions(
            logits=logits, labels=dataset.labels[indices], names=[dataset.names[index] for index in indices.tolist()]
        )
        for name, (dataset, indices, logits) in held.items()
    }
    evaluation.write(folder, classes, predictions)
    dataset, indices, _ = held["test"]
    _write_examples(folder / EXAMPLES, dataset, indices)


def _write_examples(folder: Path, dataset: Dataset, indices: torch.Tensor) -> None:
    """Write a few test images as pictures, named by their line in the table of predictions."""
    from ssl_transfer.reports import image_grid
    from ssl_transfer.reports.evaluation import write_picture

    places = torch.linspace(0, len(indices) - 1, min(NUM_EXAMPLES, len(indices))).round().long()
    (images,) = dataset.batches([indices[places]], image_grid.CPU)
    for place, image in zip(places.tolist(), images, strict=True):
        write_picture(folder / f"{place}.png", image_grid.encoded(image))


def write_curves(folder: Path, key: dict[str, Any], result: dict[str, Any]) -> None:
    """Draw `evaluation/curves.png`: training and validation over all phases.

    Args:
        folder: of the run.
        key: arm, backbone, labels, seed, as in the tables of a comparison.
        result: of the stage.
    """
    from ssl_transfer.reports import evaluation, figures

    rows = write_tables.rows_of(key, result, None)
    results = Results(rows, curves=write_tables.curves_of(key, folder / "metrics.jsonl", result.get("path")))
    evaluation.write_picture(folder / evaluation.FOLDER / "curves.png", figures.learning_curves(results))


def write_learning_rates(training: Training, phase: Phase, folder: Path, found: Finding) -> dict[str, Any]:
    """Write and print the result of the learning-rate range test of a phase."""
    from ssl_transfer.reports import lr_finder

    if training.runtime.is_main:
        lr_finder.write(folder, found)
    training.runtime.say(
        f"{phase.name}: the smoothed loss is least at a learning rate of {found.least:.2g}"
        f"{'' if found.exploded else ' (it never exploded)'}; a tenth of it is {found.suggestion:.2g}. "
        f"The curve: {folder / 'learning_rates.png'}"
    )
    return {"suggestion": found.suggestion, "least": found.least, "exploded": found.exploded}
