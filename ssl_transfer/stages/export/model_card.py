"""Write the model card of an exported model: README.md, from the records of its run."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ssl_transfer.data.sources.label import data_label
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.evaluation.comparison.significance import bootstrap_interval
from ssl_transfer.models.torchvision_models import is_torchvision
from ssl_transfer.reports import evaluation
from ssl_transfer.reports.rendering import TEMPLATES
from ssl_transfer.stages.common.run import Run

from .exported_model import Exported

_FEW = 10
"""More classes than these are counted, not named, in the first sentence."""


def write(file: Path, exported: Exported, told: dict[str, Any], *, licence: str, loads_by_name: bool) -> None:
    """Write the card.

    Args:
        file: README.md.
        exported: the model.
        told: facts of the JSON file beside the weights (`exported_model.facts`).
        licence: of the weights, from the user.
        loads_by_name: `timm.create_model` loads the folder.
    """
    library = "torchvision" if is_torchvision(exported.backbone.spec.name) else "timm"
    run = exported.run
    task = "image-classification" if run.classes else "image-feature-extraction"
    # With a library's name the hub shows how to load the folder by it; only some of timm's constructors can.
    named = {"library_name": library} if loads_by_name else {}
    header = {"license": licence, **named, "pipeline_tag": task, "tags": ["ssl_transfer", library]}
    found = run.evaluation
    text = TEMPLATES.get_template("model_card.md.jinja").render(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(),
        licence=licence,
        library=library,
        told=told,
        parameters=f"{sum(one.numel() for one in exported.backbone.parameters()):,}",
        num_classes=len(run.classes),
        named=list(run.classes) if len(run.classes) <= _FEW else [],
        steps=history(run.provenance),
        labelled=_labelled(run),
        results=_results(run),
        notes=found["notes"] if found else [],
        temperature=run.temperature.value,
        errors=_calibration(found),
        adapted=run.is_adapted,
    )
    write_text(file, f"{text.rstrip()}\n")


def history(provenance: dict[str, Any]) -> list[str]:
    """Describe the origin of weights: a sentence for each training, the first training first."""
    if "settings" not in provenance:
        return [f"Initialisation: {provenance['init']}."]
    settings = provenance["settings"]
    steps = history(provenance["init"])
    data = f"on {_data(settings, 'data', provenance['data_fingerprint'])}" if "data" in settings else ""
    if "target_fingerprint" in provenance:
        source = _data(settings, "source", provenance["data_fingerprint"])
        target = _data(settings, "target", provenance["target_fingerprint"])
        return [*steps, f"Adaptation by {provenance['method']} from {source} to {target}."]
    if "method" in provenance:
        return [
            *steps,
            f"Pretraining without labels by {provenance['method']} {data}, {provenance['images_seen']:,} images seen.",
        ]
    plan = " ".join(settings["plan"])
    seed = f"plan {plan}, labels a class: {settings['labels']}, seed {settings['seed']}"
    if "teacher" in provenance:
        return [*steps, f"Distillation of another model of this project {data}: {seed}."]
    return [*steps, f"Transfer with labels {data}: {seed}."]


def _data(settings: dict[str, Any], name: str, fingerprint: str) -> str:
    """Name a data set by its kind, its last name and its fingerprint, without its place on a disk."""
    source = str(settings[name])
    kind, colon, _ = source.partition(":")
    return f"{kind}{colon}{data_label(source) if colon else ''} (fingerprint {fingerprint})"


def _labelled(run: Run) -> str:
    """Count the labelled images that trained the model, and those that chose between its phases."""
    result = run.result or {}
    if "num_train" not in result:
        return ""
    return (
        f"{counted(result['num_train'], 'labelled image')} trained it, "
        f"{counted(result['num_validation'], 'other')} chose between its phases."
    )


def _results(run: Run) -> list[dict[str, str]]:
    """List the metrics of each measured split, with intervals where every prediction is kept."""
    found = run.evaluation
    if found is None:
        return []
    lines = []
    for split, file in (("test", evaluation.PREDICTIONS), ("validation", evaluation.HELD_PREDICTIONS)):
        if split not in found["metrics"] or (split == "test" and found["split"] != "test"):
            continue
        metrics, interval = found["metrics"][split], ""
        table = run.path / evaluation.FOLDER / file
        if table.is_file():
            with open(table, encoding="utf-8", newline="") as opened:
                hits = np.array([row["label"] == row["predicted"] for row in csv.DictReader(opened)], dtype=float)
            low, high = bootstrap_interval(hits)
            interval = f" [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(
            {
                "split": split,
                "images": f"{found['num_images'][split]:,}",
                "accuracy": f"{100 * metrics['accuracy']:.1f}{interval}",
                "balanced": f"{100 * metrics['balanced_accuracy']:.1f}",
                "macro_f1": f"{100 * metrics['macro_f1']:.1f}",
            }
        )
    return lines


def _calibration(found: dict[str, Any] | None) -> dict[str, str]:
    """Return the calibration error on the test images in percent, without and with the temperature."""
    if found is None or "test" not in found["metrics"]:
        return {}
    metrics = found["metrics"]["test"]
    return {
        "plain": f"{100 * metrics['calibration_error']:.1f}",
        "scaled": f"{100 * metrics['calibration_error_scaled']:.1f}",
    }
