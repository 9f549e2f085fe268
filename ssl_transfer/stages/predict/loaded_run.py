"""The model that a run leaves, and what its folder knows of the images that it takes and of how far to trust it."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from ssl_transfer.data.dataset import EIGHT_BITS
from ssl_transfer.data.loading_config import LoadingConfig, Range
from ssl_transfer.data.store.decode import Layout
from ssl_transfer.data.store.storage_layout import CROP_MARGIN, as_stored
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import weight_files
from ssl_transfer.models import pretrained
from ssl_transfer.models.backbones import BackboneSpec
from ssl_transfer.models.classifier import Classifier, has_head, load_classifier
from ssl_transfer.reports import evaluation
from ssl_transfer.stages.common.checkpoint_data import loading_of


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """A run's model, on the CPU and in evaluation mode."""

    path: Path
    classifier: Classifier
    classes: tuple[str, ...]
    """In the order of its scores."""
    layout: Layout
    """How its images were stored."""
    value_range: Range
    """Of their stored values, those that became 0 and 1."""
    loading: LoadingConfig
    """How they were read."""
    temperature: float | None
    """Fitted on validation; None where the run has none."""
    doubts: tuple[str, ...]
    """What the run's evaluation says against that temperature."""
    is_adapted: bool
    """Whether it is for another domain than the one that validation is of."""
    note: str = ""
    """What its user should know."""


def load_model(path: Path) -> RunModel:
    """The model of a run.

    Raises:
        InputError: nothing exported there, or a backbone without a head.
    """
    backbone, provenance = pretrained.from_checkpoint(path)
    if not has_head(path):
        raise InputError(
            f"{path}: holds a backbone without a head, which knows no classes. `ssl-transfer transfer --init {path} "
            "--data DATA` trains one."
        )
    classes = tuple(weight_files.load_description(path, "head")["classes"])
    classifier = load_classifier(path, backbone, classes, remedy="")
    layout, value_range, loading, note = images_of(path, backbone.spec)
    temperature, doubts = temperature_of(path)
    return RunModel(
        path=path,
        classifier=classifier,
        classes=classes,
        layout=layout,
        value_range=value_range,
        loading=loading,
        temperature=temperature,
        doubts=doubts,
        is_adapted="target_fingerprint" in provenance,
        note=note,
    )


def temperature_of(path: Path) -> tuple[float | None, tuple[str, ...]]:
    """The temperature that a run fitted on its validation images, and what it found against it."""
    file = path / evaluation.FOLDER / "metrics.json"
    if not file.is_file():
        return None, ()
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return float(found["metrics"]["validation"]["temperature"]), tuple(map(str, found["notes"]))
    except (ValueError, KeyError, TypeError) as error:
        remedy = "Start the run's command again with another --output."
        raise InputError(f"{file}: not the metrics of an evaluation ({error}). {remedy}") from error


def how_calibrated(model: RunModel, temperature: float) -> str:
    """A sentence about what dividing scores by the run's temperature makes of its probabilities."""
    whose = " of the source, not of the target" if model.is_adapted else ""
    claim = "divided by a temperature, and not known to be calibrated" if model.doubts else "calibrated"
    return f"probabilities are {claim}: temperature {temperature:.3g}, fitted on the run's validation images{whose}"


def held_above(model: RunModel, threshold: float, *, calibrated: bool) -> str:
    """A sentence about the validation images whose confidence reaches a threshold."""
    file = model.path / evaluation.FOLDER / evaluation.HELD_PREDICTIONS
    if not file.is_file():
        return "What that is worth is not known: the run keeps no predictions of its validation images."
    column = "confidence_scaled" if calibrated else "confidence"
    with open(file, encoding="utf-8", newline="") as opened:
        rows = [(float(row[column]) >= threshold, row["label"] == row["predicted"]) for row in csv.DictReader(opened)]
    if not rows:
        return "What that is worth is not known: the run had no validation images."
    right = [is_right for above, is_right in rows if above]
    everything = sum(is_right for _, is_right in rows) / len(rows)
    held = "validation, which is of the source," if model.is_adapted else "validation"
    kept = f"On {held} {len(right):,} of {counted(len(rows), 'image')} reach it"
    if not right:
        return f"{kept}, so nothing is known of what is kept."
    return f"{kept}; {sum(right) / len(right):.1%} of them are right, against {everything:.1%} of all."


def images_of(path: Path, spec: BackboneSpec) -> tuple[Layout, Range, LoadingConfig, str]:
    """How the images of a run, or of its `backbone/`, were stored, those that became 0 and 1, and how they were read.

    A run of an earlier version did not keep it, and most of these are taken to be: the last is a note that says so.

    Raises:
        InputError: it is not kept, and cannot be guessed.
    """
    loading = loading_of(path)
    for part in ("backbone", "head") if has_head(path) else ("backbone",):
        description = weight_files.load_description(path, part)
        if "images" in description:
            kept = description["images"]
            low, high = kept["value_range"]
            layout = as_stored(channels=kept["channels"], dtype=kept["dtype"], side=kept["side"], config=loading)
            return layout, (low, high), loading, ""
    if spec.value_range != EIGHT_BITS:
        raise InputError(
            f"{path}: an earlier version made it, which did not keep how its images were stored, and they were not "
            "of 8 bits. Start its command again with another --output."
        )
    side = loading.stored_size or round(spec.image_size * CROP_MARGIN)
    layout = as_stored(channels=spec.in_chans, dtype="uint8", side=side, config=loading)
    note = f"warning: {path} does not say how its images were stored; 8 bits and {side} pixels a side are taken."
    return layout, spec.value_range, loading, note
