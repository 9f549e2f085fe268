"""Load a run to be explained: its model, its data, and the images to look at."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.data import sources
from ssl_transfer.data.dataset import Dataset, to_unit
from ssl_transfer.data.loaders.user_images import given, read_as
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.transforms.augment import evaluation_view
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.models.backbones import Backbone, BackboneSpec, freeze
from ssl_transfer.models.classifier import Classifier
from ssl_transfer.stages.common.checkpoint_data import matched
from ssl_transfer.stages.common.run import Run

MOST_IMAGES = 100
"""Largest number of images to look at."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Images to look at."""

    views: Tensor
    """(B, C, S, S) in 0..1 on the model's device: the model's input."""
    labels: tuple[int, ...]
    """Class indices; -1 where unknown."""
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Run with its data and images."""

    name: str
    """Name in tables and figures."""
    backbone: Backbone
    """On the device, frozen."""
    classifier: Classifier | None
    """None where the run has no head."""
    classes: tuple[str, ...]
    """Class names, in the order of the classifier's scores."""
    dataset: Dataset | None
    """Data of the run; None where only files are looked at."""
    shown: Shown


def load(
    run: Run,
    name: str,
    runtime: Runtime,
    *,
    data: str,
    loading: LoadingConfig,
    files: Sequence[str],
    split: str,
    count: int,
) -> Subject:
    """Load a run and its images.

    Args:
        run: the run to explain.
        name: its name in tables and figures.
        runtime: the device.
        data: the run's data; empty: only `files` are looked at.
        loading: settings for reading the data.
        files: the user's own images, as in `user_images.given`; without any, `count` images of `split` are used.
        split: part of the data.
        count: number of images.
    """
    backbone = run.load_backbone()
    freeze(backbone.to(runtime.device))
    dataset = None
    if data:
        dataset = sources.load(data, image_size=backbone.spec.image_size, config=loading)
        dataset = matched(dataset, run, loading)
        for line in dataset.notes:
            runtime.say(line)
    classes, classifier = dataset.classes if dataset else (), None
    if run.has_head:
        classes = classes or run.classes
        remedy = (
            f"Give data with the same classes; or {run.path / 'backbone'}, its features alone, for maps and neighbours."
        )
        classifier = run.load_classifier(backbone, classes, remedy=remedy).to(runtime.device)
        classifier.head.requires_grad_(False)
    if files:
        shown = _shown_files(files, run, runtime)
    elif dataset is None:
        raise InputError("Which images? Give --images or --data.")
    else:
        shown = _shown(dataset, spread(dataset, split, count), backbone.spec, runtime.device)
    return Subject(name=name, backbone=backbone, classifier=classifier, classes=classes, dataset=dataset, shown=shown)


def spread(dataset: Dataset, split: str, count: int) -> Tensor:
    """Pick up to `count` images of a split, evenly spaced when they are sorted by class."""
    indices = dataset.splits[split]
    if not len(indices):
        raise InputError(f"{dataset.source}: has no {split} images. Give another --split or --data.")
    order = indices[dataset.labels[indices].argsort(stable=True)]
    places = (torch.arange(min(count, len(order))) + 0.5) * (len(order) / min(count, len(order)))
    return order[places.long()]


def views_of(dataset: Dataset, indices: Tensor, spec: BackboneSpec, device: torch.device) -> Tensor:
    """Convert these images to the model's input: (B, C, S, S) in 0..1."""
    images = next(dataset.batches([indices], device))
    return evaluation_view(images, size=spec.image_size, interpolation=spec.interpolation)


def _shown(dataset: Dataset, indices: Tensor, spec: BackboneSpec, device: torch.device) -> Shown:
    return Shown(
        views=views_of(dataset, indices, spec, device),
        labels=tuple(dataset.labels[indices].tolist()),
        names=tuple(str(dataset.names[index]) for index in indices.tolist()),
    )


def _shown_files(words: Sequence[str], run: Run, runtime: Runtime) -> Shown:
    """Read files, and the images in folders, like the images of the run."""
    spec, storage = run.spec, run.storage
    if storage.note:
        runtime.say(storage.note)
    images = [given(word, column=None, image_size=spec.image_size, loading=run.loading) for word in words]
    count = sum(len(one.names) for one in images)
    if count > MOST_IMAGES:
        raise InputError(f"--images: {counted(count, 'image')}; at most {MOST_IMAGES} are shown. Give fewer.")
    (read,) = read_as(images, storage.layout, to_grey=True, batch_size=count, workers=1)
    for one in read:
        if one.pixels is None:
            raise InputError(f"--images: {one.name}: {one.problem}")
    stored = torch.from_numpy(np.stack([one.pixels for one in read if one.pixels is not None]))
    values = to_unit(stored.to(runtime.device), storage.value_range)
    view = evaluation_view(values, size=spec.image_size, interpolation=spec.interpolation)
    return Shown(views=view, labels=(-1,) * count, names=tuple(one.name for one in read))
