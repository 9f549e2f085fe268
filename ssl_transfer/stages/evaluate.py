"""Evaluate a run: nearest neighbours and a linear probe on its features, and its own head where it has one.

Choices and fits (the probe's regularisation, the temperature) use the validation images, also where the test images are
measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.data import sources
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import drawn, table
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import ownership
from ssl_transfer.engine.runs.run_folder import check_free
from ssl_transfer.evaluation.features.extract import class_scores_of, extract
from ssl_transfer.evaluation.features.knn import knn_accuracy
from ssl_transfer.evaluation.features.linear_probe import linear_probe
from ssl_transfer.evaluation.predictions.metrics import classification
from ssl_transfer.evaluation.predictions.robustness import CorruptedAccuracy, corrupted_accuracies
from ssl_transfer.models.classifier import Classifier
from ssl_transfer.stages.common.checkpoint_data import matched, own_images
from ssl_transfer.stages.common.run import Run

OfFeatures = Callable[[Tensor], Tensor]
"""Features (N, D) -> logits (N, K)."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a run: kNN and a linear probe on its features, trained on the training images.

    A trained head of the run is measured too. --output writes all results, with the metrics of each class, calibration,
    confusion and every prediction.
    """

    path: Annotated[str, *configuration.positional("RUN")] = ""
    """Folder of a run that exported a backbone; its `backbone/` folder excludes the head."""
    data: str = ""
    """The images: digits, folder:PATH, npz:FILE, torchvision:NAME, hf:REPO, medmnist:NAME, or made of others:
    blended-digits, blend:DATA,PHOTOFOLDER, union:DATA,DATA (docs/howto/data.md). Default: those of the run, read and
    split in the same way."""
    split: str = "validation"
    """Images to classify: validation, or test. Choices and fits always use validation."""
    neighbours: int = 20
    """Number of voting neighbours, k."""
    corruptions: bool = False
    """Also measure the images with noise, blur and four other corruptions in five severities each."""
    seed: int = 0
    """Seed of the corruptions' noise."""
    output: Path | None = None
    """Folder for evaluation.json, the files of `evaluation/` and corruptions.csv. None: only print."""
    loading: sources.LoadingConfig = field(default_factory=sources.LoadingConfig)
    """Settings for reading and splitting images."""


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure, print and, where an output is given, write.

    Returns:
        A dictionary with these keys. Accuracies are 0..1.

        - `split`, `num_images`, `knn_accuracy`;
        - `classifiers`: the metrics on the split of `head`, where there is one, and of `linear_probe`; with corruptions
          also `corrupted_accuracy`, the mean over all of them;
        - `linear_probe`: strength, validation accuracy;
        - `corruptions`: rows; empty unless requested;
        - `notes`.
    """
    _check(config)
    runtime = runtimes.start()
    run = Run(Path(config.path))
    backbone = run.load_backbone()
    data, loading = own_images(run, config.data, config.loading)
    if not data:
        raise InputError(f"{run.path}: does not say which images it was trained on, or streamed them. Give --data.")
    config = replace(config, data=data, loading=loading)
    dataset = sources.load(data, image_size=backbone.spec.image_size, config=loading)
    dataset = matched(dataset, run, loading)
    needed = dict.fromkeys(("train", "validation", config.split))
    missing = [name for name in needed if not len(dataset.splits[name])]
    if missing:
        raise InputError(
            f"--data {config.data}: has no labelled images for {' and '.join(missing)}. Give data that has."
        )
    remedy = f"Give its features alone, as {run.path / 'backbone'}, or data with the same classes."
    own = run.load_classifier(backbone, dataset.classes, remedy=remedy) if run.has_head else None
    backbone.to(runtime.device).eval()
    for line in dataset.notes:
        runtime.say(line)
    features = {name: extract(backbone, dataset, dataset.splits[name], runtime) for name in needed}
    labels = {name: dataset.labels[dataset.splits[name]] for name in needed}
    train, measured = (features["train"], labels["train"]), (features[config.split], labels[config.split])
    accuracy = knn_accuracy(*train, *measured, k=config.neighbours)
    num_classes = len(dataset.classes)
    probe = linear_probe(*train, features["validation"], labels["validation"], num_classes=num_classes)
    classifiers: dict[str, OfFeatures] = {"linear_probe": probe.logits}
    scores = {"linear_probe": {name: probe.logits(features[name]) for name in needed if name != "train"}}
    notes = [probe.note] if probe.note else []
    if own is not None and not own.head.takes_maps:
        classifiers = {"head": partial(_of_features, own), **classifiers}
    elif own is not None and config.corruptions:
        notes.append("The head takes the backbone's maps and is left out of the corruptions, which go by its features.")
    if own is not None:
        scores = {
            "head": {
                name: class_scores_of(own.to(runtime.device), dataset, dataset.splits[name], runtime)
                for name in scores["linear_probe"]
            },
            **scores,
        }
    found = {name: classification(logits[config.split], measured[1]) for name, logits in scores.items()}
    result: dict[str, Any] = {
        "split": config.split,
        "num_images": len(measured[1]),
        "knn_accuracy": accuracy,
        "classifiers": found,
        "linear_probe": {"strength": probe.strength, "validation_accuracy": probe.validation_accuracy},
        "corruptions": [],
        "notes": notes,
    }
    if config.corruptions:
        indices = dataset.splits[config.split]
        rows = corrupted_accuracies(backbone, classifiers, dataset, indices, runtime, seed=config.seed)
        result["corruptions"] = rows
        for name in classifiers:
            metrics = found[name]
            own_rows = [row["accuracy"] for row in rows if row["classifier"] == name]
            metrics["corrupted_accuracy"] = float(np.mean(own_rows))
    _describe(config, result, runtime)
    for note in result["notes"]:
        runtime.say(note)
    if config.output is not None and runtime.is_main:
        _write(config, config.output, dataset, next(iter(scores.values())), result)
        runtime.say(f"written: {config.output / 'evaluation.json'}")
    return result


def _describe(config: EvaluateConfig, result: dict[str, Any], runtime: runtimes.Runtime) -> None:
    """Print the results; nearest neighbours have no probabilities."""
    probe = result["linear_probe"]
    corrupted = ["corrupted"] * bool(result["corruptions"])
    listed = table("", "accuracy", "balanced", "calibration error", *corrupted)
    listed.add_row(f"kNN, k {config.neighbours}", f"{result['knn_accuracy']:.1%}")
    names = ("accuracy", "balanced_accuracy", "calibration_error", *(f"{name}_accuracy" for name in corrupted))
    for name, metrics in result["classifiers"].items():
        listed.add_row(name.replace("_", " "), *(f"{metrics[metric]:.1%}" for metric in names))
    runtime.say(f"{config.path}: {result['num_images']} images of {config.split}, {config.data}")
    runtime.say(drawn(listed))
    runtime.say(f"linear probe: strength {probe['strength']:.2g}, chosen on validation")
    if corrupted:
        runtime.say("corrupted: the mean accuracy over corruptions and severities")


def _check(config: EvaluateConfig) -> None:
    """Refuse impossible settings before any computation."""
    if config.split not in ("validation", "test"):
        raise InputError(f"--split {config.split}: validation or test.")
    if config.neighbours < 1:
        raise InputError(f"--neighbours {config.neighbours}: at least 1.")
    if not config.path:
        raise InputError(
            "Which backbone? Give the folder of a run, as in `ssl-transfer evaluate runs/NAME --data digits`."
        )
    if config.output is not None:
        check_free(config.output)


@torch.inference_mode()
def _of_features(own: Classifier, features: Tensor) -> Tensor:
    """Classify pooled features: (N, D) -> (N, K)."""
    return own.scores(features.to(own.backbone.mean.device)).cpu()


def _write(
    config: EvaluateConfig, output: Path, dataset: sources.Dataset, logits: dict[str, Tensor], result: dict[str, Any]
) -> None:
    """Write `evaluation.json`, and the files of the first classifier: the head where there is one, or the probe."""
    from ssl_transfer.reports import evaluation

    ownership.own_folder(output)
    predictions = {}
    for name, values in logits.items():
        indices = dataset.splits[name]
        names = [dataset.names[index] for index in indices.tolist()]
        predictions[name] = evaluation.Predictions(logits=values, labels=dataset.labels[indices], names=names)
    evaluation.write(output, dataset.classes, predictions, split=config.split)
    rows: list[CorruptedAccuracy] = result["corruptions"]
    if rows:
        clean = {name: metrics["accuracy"] for name, metrics in result["classifiers"].items()}
        evaluation.write_corruptions(output, rows, clean)
    settings = configuration.to_dict(config)
    evaluation.write_json(output / "evaluation.json", {**result, "data": dataset.describe(), "settings": settings})


def main(arguments: Sequence[str], program: str = "ssl-transfer evaluate") -> None:
    """Run `evaluate PATH [flags]`."""
    settings, rest = configuration.take_config(arguments)
    evaluate(configuration.parse(EvaluateConfig, settings, rest, program=program, default=EvaluateConfig()))
