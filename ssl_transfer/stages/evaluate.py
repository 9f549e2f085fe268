"""Evaluate an exported backbone as it is: nearest neighbours in its features, nothing trained."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from ..data import sources
from ..engine import config as configuration
from ..engine import runtime as runtimes
from ..engine.errors import InputError
from ..evaluation.features import extract
from ..evaluation.knn import knn_accuracy
from ..models import initialize
from .matching import matched


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """kNN accuracy of a backbone's features: neighbours among training images, queries from validation or test."""

    path: Annotated[str, tyro.conf.Positional] = ""
    """The folder of a run that exported a backbone."""
    data: str = "digits"
    """The images: digits, or folder:PATH."""
    split: str = "validation"
    """Which images are classified: validation, or test."""
    neighbours: int = 20
    """Neighbours that vote, k."""
    loading: sources.LoadingConfig = field(default_factory=sources.LoadingConfig)
    """How images are read and divided."""


def evaluate(config: EvaluateConfig) -> float:
    """The accuracy, 0..1."""
    if config.split not in ("validation", "test"):
        raise InputError(f"--split {config.split}: validation or test.")
    if config.neighbours < 1:
        raise InputError(f"--neighbours {config.neighbours}: at least 1.")
    if not config.path:
        raise InputError(
            "Which backbone? Give the folder of a run, as in `ssl-transfer evaluate runs/NAME --data digits`."
        )
    runtime = runtimes.start()
    backbone, _ = initialize.from_checkpoint(Path(config.path))
    dataset = sources.load(config.data, image_size=backbone.spec.image_size, config=config.loading)
    dataset = matched(dataset, backbone.spec, Path(config.path), config.loading)
    backbone.to(runtime.device)
    neighbours, queries = dataset.splits["train"], dataset.splits[config.split]
    if not len(neighbours) or not len(queries):
        raise InputError(f"--data {config.data}: kNN needs labelled training images, and {config.split} images.")
    accuracy = knn_accuracy(
        extract(backbone, dataset, neighbours, runtime),
        dataset.labels[neighbours],
        extract(backbone, dataset, queries, runtime),
        dataset.labels[queries],
        k=config.neighbours,
    )
    runtime.say(
        f"{config.path}: kNN accuracy on {config.split} {accuracy:.1%} ({len(queries)} images, k {config.neighbours})"
    )
    return accuracy


def main(arguments: Sequence[str], program: str = "ssl-transfer evaluate") -> None:
    """`evaluate PATH [flags]`."""
    settings, rest = configuration.take_config(arguments)
    evaluate(configuration.parse(EvaluateConfig, settings, rest, program=program, default=EvaluateConfig()))
