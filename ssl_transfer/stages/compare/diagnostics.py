"""Compute the diagnostic tables of a comparison, so that its report can be drawn again without the images.

- `confusions.csv`: predicted classes of the test images of each arm and budget, summed over seeds.
- `embeddings.csv`: a map of each arm's frozen features of the same validation images.
- `diagnosis.csv`: similarity, distance and separability of these features (`evaluation.features.transferability`).

Features are those with which the first seed's transfer run at the largest budget began. Of the test images only the
stored predictions of the runs are read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.transforms.augment import evaluation_view
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.io.npy_files import load_array
from ssl_transfer.engine.randomness import permutation
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.results import Pair
from ssl_transfer.evaluation.comparison.tables.table_files import (
    CONFUSION_COLUMNS,
    CONFUSIONS_FILE,
    DIAGNOSIS_FILE,
    EMBEDDING_COLUMNS,
    EMBEDDINGS_FILE,
)
from ssl_transfer.evaluation.features import transferability
from ssl_transfer.evaluation.features.extract import extract
from ssl_transfer.evaluation.features.linear_probe import linear_probe
from ssl_transfer.evaluation.features.tsne import LEAST_IMAGES, embed
from ssl_transfer.models.backbones import Backbone
from ssl_transfer.stages.common.checkpoint_data import matched
from ssl_transfer.stages.common.initialization import image_size_of, initial_backbone, open_initial_run
from ssl_transfer.stages.transfer.config import TransferConfig
from ssl_transfer.stages.transfer.setup import CALIBRATION_IMAGES, fitted, labelled_images, settle_statistics

from .grid import FinishedRun

MOST_IMAGES = 500
"""Validation images, and images of the pool, whose features are extracted."""
MOST_LABELLED = 1000
"""Images that the linear probe is fitted on."""
STRENGTHS = tuple(10.0**exponent for exponent in range(1, -5, -1))
"""Grid of the probe: coarser than that of `evaluate`, as here arms are compared with each other."""
SEED = 0
"""Seed of the choice of images and of the maps: the same in every comparison."""


class Table(NamedTuple):
    """Hold a table before it is written."""

    columns: Sequence[str]
    lines: Sequence[Sequence[object]]


def diagnose(runs: Sequence[FinishedRun], dataset: Dataset, runtime: Runtime) -> dict[str, Table]:
    """Compute the three tables, by file name; called on rank 0, when all runs have finished.

    Raises:
        InputError: the weights of an arm are damaged.
    """
    confusions = list(_confusions(runs, dataset))
    validation, pool = _few(dataset.splits["validation"], MOST_IMAGES), _few(dataset.pool, MOST_IMAGES)
    starts = {pair: run.job.config for pair, run in first_runs(runs).items()}
    features: dict[Pair, Tensor] = {}
    found: list[tuple[str, str, str, str, float, int]] = []
    for pair, config in starts.items():
        backbone, images = _initial(config, dataset, runtime)
        features[pair] = extract(backbone, images, validation, runtime)
        apart = transferability.distance(extract(backbone, images, pool, runtime), features[pair], seed=SEED)
        found.append((*pair, "distance", "", apart, min(len(pool), len(validation))))
        found += [(*pair, *line) for line in _separability(backbone, config, images, runtime)]
    for pair in starts:
        for reference in _references(pair, starts):
            alike = transferability.similarity(features[pair], features[reference])
            name = reference[0] if reference[1] == pair[1] else f"{reference[0]} ({reference[1]})"
            found.append((*pair, "similarity", name, alike, len(validation)))
    return {
        CONFUSIONS_FILE: Table(CONFUSION_COLUMNS, confusions),
        DIAGNOSIS_FILE: Table(transferability.COLUMNS, found),
        EMBEDDINGS_FILE: Table(EMBEDDING_COLUMNS, list(_map_lines(features, validation, dataset))),
    }


def first_runs(runs: Sequence[FinishedRun]) -> dict[Pair, FinishedRun]:
    """Return for each arm on its backbone the run of the first seed at the largest budget."""
    pairs = dict.fromkeys((run.arm.name, run.arm.label) for run in runs)
    return {
        pair: max(
            (run for run in runs if (run.arm.name, run.arm.label) == pair), key=lambda run: run.result["num_train"]
        )
        for pair in pairs
    }


def _initial(config: TransferConfig, dataset: Dataset, runtime: Runtime) -> tuple[Backbone, Dataset]:
    """Build the initial backbone of a run, in evaluation mode on the device, and the images as it takes them."""
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
    """Fit a linear probe on the labelled images of the budget, chosen and measured on its validation images."""
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
    """List the arms to compare features with: scratch on the same backbone, and ImageNet on it or on another."""
    found = [other for other in starts if other == ("scratch", pair[1])]
    imagenet = [other for other in starts if other[0] == "imagenet"]
    found += [other for other in imagenet if other[1] == pair[1]] or imagenet[:1]
    return [other for other in found if other != pair]


def _confusions(runs: Sequence[FinishedRun], dataset: Dataset) -> Iterable[Sequence[object]]:
    """Count predicted classes; a budget with a run of an older version, without predictions, has no lines."""
    truth, count = dataset.labels[dataset.splits["test"]].numpy(), len(dataset.classes)
    files: dict[tuple[str, str, str], list[Path]] = {}
    for run in runs:
        key = (run.arm.name, run.arm.label, run.labels)
        files.setdefault(key, []).append(run.job.folder / write_tables.PREDICTED)
    for key, paths in files.items():
        if not all(path.is_file() for path in paths):
            continue
        # Of many classes most pairs never occur.
        pairs = np.concatenate([truth.astype(np.int64) * count + load_array(path) for path in paths])
        for code, number in zip(*(part.tolist() for part in np.unique(pairs, return_counts=True)), strict=True):
            yield *key, dataset.classes[code // count], dataset.classes[code % count], number


def _map_lines(features: Mapping[Pair, Tensor], indices: Tensor, dataset: Dataset) -> Iterable[Sequence[object]]:
    if len(indices) < LEAST_IMAGES:
        return
    names = [(dataset.names[index], dataset.classes[dataset.labels[index]]) for index in indices.tolist()]
    for pair, own in features.items():
        for (name, label), (x, y) in zip(names, embed(own, seed=SEED).tolist(), strict=True):
            yield *pair, name, label, f"{x:.4f}", f"{y:.4f}"


def _few(indices: Tensor, most: int) -> Tensor:
    """Draw at most `most` of these images, the same ones every time, in their order."""
    return indices if len(indices) <= most else indices[torch.sort(permutation(SEED, 0, len(indices))[:most]).values]
