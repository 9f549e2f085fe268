"""Write the evaluation files of a classifier: metrics, per-class report, figures, predictions."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import write_atomically, write_text
from ssl_transfer.engine.printable import json_escaped
from ssl_transfer.engine.redaction import redacted_all
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.predictions import calibration, metrics
from ssl_transfer.evaluation.predictions.robustness import CorruptedAccuracy

from . import evaluation_figures as figures

FOLDER = "evaluation"
PREDICTIONS, HELD_PREDICTIONS = "predictions.csv", "predictions_validation.csv"
"""Predictions for the measured split, and for the validation images."""
PREDICTION_COLUMNS = ("name", "label", "predicted", "confidence", "confidence_scaled")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions for the N images of a split."""

    logits: Tensor
    """(N, K) float, or (N, 1): one logit for the second of two classes."""
    labels: Tensor
    """(N,) int64."""
    names: Sequence[str]
    """Name of each image."""


def write(
    folder: Path, classes: Sequence[str], predictions: Mapping[str, Predictions], *, split: str = "test"
) -> dict[str, dict[str, float]]:
    """Write `metrics.json`, `per_class.csv`, `confusion.png`, `reliability.png` and two tables of predictions.

    Each file is written whole.

    The temperature is fitted on the predictions for `validation`, never on the measured ones. Where `split` is
    validation itself, the output has a note.

    Args:
        folder: a run's; the files go to its `evaluation/`.
        classes: K names.
        predictions: by split; `validation` must be among them.
        split: the split of all files but `metrics.json`, which has every split, and `predictions_validation.csv`.

    Returns:
        For each split its metrics: those of `metrics.classification`, and of `calibration.scaled`.
    """
    if not {"validation", split} <= predictions.keys():
        raise InputError(f"predictions of {', '.join(predictions) or 'nothing'}: validation and {split} are needed.")
    held = predictions["validation"]
    temperature = calibration.fit_temperature(held.logits, held.labels)
    found = {
        name: {
            **metrics.classification(one.logits, one.labels),
            **calibration.scaled(one.logits, one.labels, temperature),
        }
        for name, one in predictions.items()
    }
    notes = [temperature.note] if temperature.note else []
    if found[split]["calibration_error_scaled"] > found[split]["calibration_error"]:
        notes.append(
            f"The temperature did not help on {split}: {len(held.labels)} validation images are too few for it."
        )
    notes += ["The temperature is measured on the images that it is fitted on."] if split == "validation" else []
    shown, place = predictions[split], folder / FOLDER
    content = {
        "split": split,
        "classes": list(classes),
        "num_images": {name: len(one.labels) for name, one in predictions.items()},
        "metrics": found,
        "notes": notes,
    }
    rows = metrics.per_class_report(shown.logits, shown.labels, classes)
    write_tables.write_readable_lines(
        place / "per_class.csv", metrics.REPORT_COLUMNS, ([row[name] for name in row] for row in rows)
    )
    for file, one in ((PREDICTIONS, shown), (HELD_PREDICTIONS, held)):
        write_tables.write_lines(place / file, PREDICTION_COLUMNS, _lines(one, classes, temperature.value))
    write_picture(place / "confusion.png", figures.confusion(metrics.confusion(shown.logits, shown.labels), classes))
    write_picture(place / "reliability.png", figures.reliability(shown.logits, shown.labels, temperature.value))
    # Written last: where it exists, the other files do too.
    write_json(place / "metrics.json", content)
    return found


def _lines(shown: Predictions, classes: Sequence[str], temperature: float) -> Iterable[Sequence[str]]:
    scores = metrics.class_logits(shown.logits)
    confidence, predicted = torch.softmax(scores, dim=1).max(dim=1)
    scaled = torch.softmax(scores / temperature, dim=1).amax(dim=1)
    columns = (shown.names, shown.labels.tolist(), predicted.tolist(), confidence.tolist(), scaled.tolist())
    for name, label, guess, sure, honest in zip(*columns, strict=True):
        yield name, classes[label], classes[guess], f"{sure:.6f}", f"{honest:.6f}"


def write_corruptions(folder: Path, rows: Sequence[CorruptedAccuracy], clean: Mapping[str, float]) -> None:
    """Write `corruptions.csv` (severity 0: the accuracy of the original images) and a figure for each classifier.

    Args:
        folder: for the files.
        rows: of every classifier.
        clean: for each classifier its accuracy without corruption; its figure is `corruptions-NAME.png`.
    """
    columns = ("classifier", "corruption", "severity", "accuracy")
    starts = [(name, "none", 0, accuracy) for name, accuracy in clean.items()]
    lines = [(row["classifier"], row["corruption"], row["severity"], row["accuracy"]) for row in rows]
    write_tables.write_readable_lines(folder / "corruptions.csv", columns, [*starts, *lines])
    for name, accuracy in clean.items():
        found: dict[str, list[float]] = {}
        for row in rows:
            if row["classifier"] == name:
                found.setdefault(row["corruption"], []).append(row["accuracy"])
        write_picture(folder / f"corruptions-{name}.png", figures.corruptions(found, accuracy))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all. JSON has no infinity: such a number becomes null."""
    text = json.dumps(redacted_all(_finite(content)), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, json_escaped(text) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_picture(path: Path, content: bytes) -> None:
    """Write an image file whole or not at all."""
    write_atomically(path, lambda aside: aside.write_bytes(content))
