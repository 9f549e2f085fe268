"""What a report shows beside the results, kept in tables so that it can be drawn again without the images.

- `confusions.csv`: of each arm and budget what the chosen models took the test images for, added up over seeds.
- `embeddings.csv`: a map of each arm's frozen features of the same validation images.
- `diagnosis.csv`: what these features say of the transfer (`evaluation.diagnosis`).

Features are those that the first seed's transfer run at the largest budget began with. Of the test images nothing is
read here but what the runs have left.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.transforms.augment import evaluation_view
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.io.npy_files import load_array
from ssl_transfer.engine.randomness import permutation
from ssl_transfer.evaluation.comparison import result_tables
from ssl_transfer.evaluation.features import transferability
from ssl_transfer.evaluation.features.extract import extract
from ssl_transfer.evaluation.features.linear_probe import linear_probe
from ssl_transfer.evaluation.features.tsne import LEAST_IMAGES, embed
from ssl_transfer.models.backbones import Backbone
from ssl_transfer.stages.common.checkpoint_data import matched
from ssl_transfer.stages.common.initialization import image_size_of, initial_backbone, open_initial_run
from ssl_transfer.stages.transfer.config import TransferConfig
from ssl_transfer.stages.transfer.setup import CALIBRATION_IMAGES, fitted, labelled_images, settle_statistics

MOST_IMAGES = 500
"""Of validation and of the pool each whose features are looked at: enough to see, and little work."""
MOST_LABELLED = 1000
"""That the linear probe is fitted on."""
STRENGTHS = tuple(10.0**exponent for exponent in range(1, -5, -1))
"""The probe's grid: coarser than that of `evaluate`, as here arms are held against each other."""
SEED = 0
"""Of the choice of images and of the maps: the same in every comparison."""
CONFUSION_COLUMNS = ("arm", "backbone", "labels", "class", "predicted", "num_images")
EMBEDDING_COLUMNS = ("arm", "backbone", "image", "class", "x", "y")
Pair = tuple[str, str]
"""(arm, backbone)."""


@dataclass(frozen=True, kw_only=True)
class Transferred:
    """A finished transfer run of a comparison."""

    arm: str
    backbone: str
    """As tables name it."""
    labels: str
    num_train: int
    """Labelled images that it was trained on."""
    config: TransferConfig


def leave(folder: Path, runs: Sequence[Transferred], dataset: Dataset, runtime: Runtime) -> None:
    """Write the three tables; called on rank 0, when all runs have finished."""
    result_tables.write_lines(folder / "confusions.csv", CONFUSION_COLUMNS, _confusions(runs, dataset))
    validation, pool = _few(dataset.splits["validation"], MOST_IMAGES), _few(dataset.pool, MOST_IMAGES)
    starts = _starts(runs)
    held: dict[Pair, Tensor] = {}
    found: list[tuple[str, str, str, str, float, int]] = []
    for pair, config in starts.items():
        backbone, images = _begun(config, dataset, runtime)
        held[pair] = extract(backbone, images, validation, runtime)
        apart = transferability.distance(extract(backbone, images, pool, runtime), held[pair], seed=SEED)
        found.append((*pair, "distance", "", apart, min(len(pool), len(validation))))
        found += [(*pair, *line) for line in _separability(backbone, config, images, runtime)]
    for pair in starts:
        for reference in _references(pair, starts):
            alike = transferability.similarity(held[pair], held[reference])
            name = reference[0] if reference[1] == pair[1] else f"{reference[0]} ({reference[1]})"
            found.append((*pair, "similarity", name, alike, len(validation)))
    result_tables.write_lines(folder / "diagnosis.csv", transferability.COLUMNS, found)
    result_tables.write_lines(folder / "embeddings.csv", EMBEDDING_COLUMNS, _map_lines(held, validation, dataset))


def describe(folder: Path, runs: Sequence[Transferred], recipes: Mapping[Pair, Mapping[str, Any]]) -> dict[str, Any]:
    """What the report says of the arms beside their numbers.

    Args:
        folder: the comparison's.
        runs: as in `leave`.
        recipes: of the arms that were pretrained, as plain settings.

    Returns:
        `settings`: those that two or more of these arms have and that differ between them, by name and by arm.
        `reconstructions`: by arm the picture's path in the folder, of methods that paint.
    """
    flat = {_name(pair): configuration.flatten(dict(recipe)) for pair, recipe in recipes.items()}
    settings: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for held in flat.values() for name in held):
        values = {arm: held[name] for arm, held in flat.items() if name in held}
        if any(value != next(iter(values.values())) for value in values.values()):
            settings[name] = values
    pictures = {
        _name(pair): Path(config.init) / "reconstructions.png"
        for pair, config in _starts(runs).items()
        if pair in recipes
    }
    return {
        "settings": settings,
        "reconstructions": {
            arm: path.relative_to(folder).as_posix() for arm, path in pictures.items() if path.is_file()
        },
    }


def _name(pair: Pair) -> str:
    return f"{pair[0]} on {pair[1]}"


def _starts(runs: Sequence[Transferred]) -> dict[Pair, TransferConfig]:
    """Of each arm on its backbone the run with the first seed at the largest budget."""
    pairs = dict.fromkeys((run.arm, run.backbone) for run in runs)
    return {
        pair: max((run for run in runs if (run.arm, run.backbone) == pair), key=lambda run: run.num_train).config
        for pair in pairs
    }


def _begun(config: TransferConfig, dataset: Dataset, runtime: Runtime) -> tuple[Backbone, Dataset]:
    """The backbone as the run began with it, in evaluation mode on the device, and the images as it takes them."""
    run = open_initial_run(config)
    config = replace(config, image_size=image_size_of(config, run))
    backbone, _ = initial_backbone(config, dataset, run)
    dataset = matched(dataset, run, config.loading)
    backbone, _ = fitted(config, backbone, len(dataset.classes))
    backbone.to(runtime.device)
    if config.init == "scratch":
        spec, sample = backbone.spec, _few(dataset.pool, CALIBRATION_IMAGES)
        (images,) = dataset.batches([sample], runtime.device)
        view = evaluation_view(images, size=spec.image_size, interpolation=spec.interpolation)
        settle_statistics(backbone, view)
    return backbone.eval(), dataset


def _separability(
    backbone: Backbone, config: TransferConfig, dataset: Dataset, runtime: Runtime
) -> list[tuple[str, str, float, int]]:
    """A linear probe on the labelled images of the budget, chosen and measured on its validation images."""
    budget = labelled_images(config, dataset)
    labelled, validation = (_few(indices, MOST_LABELLED) for indices in (budget.train, budget.validation))
    features = [extract(backbone, dataset, indices, runtime) for indices in (labelled, validation)]
    labels = [dataset.labels[indices] for indices in (labelled, validation)]
    if not len(validation) or len(labels[0].unique()) < 2:
        return []
    num_classes = len(dataset.classes)
    probe = linear_probe(features[0], labels[0], features[1], labels[1], num_classes=num_classes, strengths=STRENGTHS)
    return [("separability", "", probe.validation_accuracy, len(validation))]


def _references(pair: Pair, starts: Mapping[Pair, TransferConfig]) -> list[Pair]:
    """What an arm's features are held against: scratch on its own backbone, and ImageNet on it or on another."""
    found = [other for other in starts if other == ("scratch", pair[1])]
    imagenet = [other for other in starts if other[0] == "imagenet"]
    found += [other for other in imagenet if other[1] == pair[1]] or imagenet[:1]
    return [other for other in found if other != pair]


def _confusions(runs: Sequence[Transferred], dataset: Dataset) -> Iterable[Sequence[object]]:
    """Runs of older versions have left no predictions: their budget has no lines, rather than those of fewer seeds."""
    truth, count = dataset.labels[dataset.splits["test"]].numpy(), len(dataset.classes)
    files: dict[tuple[str, str, str], list[Path]] = {}
    for run in runs:
        if run.config.output is not None:
            files.setdefault((run.arm, run.backbone, run.labels), []).append(
                run.config.output / result_tables.PREDICTED
            )
    for key, paths in files.items():
        if not all(path.is_file() for path in paths):
            continue
        # Of many classes most pairs never occur.
        pairs = np.concatenate([truth.astype(np.int64) * count + load_array(path) for path in paths])
        for code, number in zip(*(part.tolist() for part in np.unique(pairs, return_counts=True)), strict=True):
            yield *key, dataset.classes[code // count], dataset.classes[code % count], number


def _map_lines(held: Mapping[Pair, Tensor], indices: Tensor, dataset: Dataset) -> Iterable[Sequence[object]]:
    if len(indices) < LEAST_IMAGES:
        return
    names = [(dataset.names[index], dataset.classes[dataset.labels[index]]) for index in indices.tolist()]
    for pair, features in held.items():
        for (name, label), (x, y) in zip(names, embed(features, seed=SEED).tolist(), strict=True):
            yield *pair, name, label, f"{x:.4f}", f"{y:.4f}"


def _few(indices: Tensor, most: int) -> Tensor:
    """At most so many of these images, always the same ones, in their order."""
    return indices if len(indices) <= most else indices[torch.sort(permutation(SEED, 0, len(indices))[:most]).values]
