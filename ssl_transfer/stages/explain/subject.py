"""A run that is to be explained: its model, the images of its data, and those that are looked at one by one."""

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
"""Pictures of more would not be looked at."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Images that are looked at one by one."""

    views: Tensor
    """(B, C, S, S) in 0..1 on the model's device: what the model sees."""
    labels: tuple[int, ...]
    """-1 where the class is not known."""
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run with what it is explained on."""

    name: str
    """What tables and pictures call it."""
    backbone: Backbone
    """On the device, frozen."""
    classifier: Classifier | None
    """None where the run has no head."""
    classes: tuple[str, ...]
    """In the order of the classifier's scores."""
    dataset: Dataset | None
    """The run's data; None where only files are looked at."""
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
        run: to be explained.
        name: its name in tables and pictures.
        runtime: the device.
        data: the run's data; empty: only `files` are looked at.
        loading: how the data is read.
        files: images of the user's own, as `given` names them; without any, `count` images of `split` are looked at.
        split: of the data.
        count: how many.
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
    """(at most `count`,) images of a split, evenly spaced when they are sorted by class."""
    indices = dataset.splits[split]
    if not len(indices):
        raise InputError(f"{dataset.source}: has no {split} images. Give another --split or --data.")
    order = indices[dataset.labels[indices].argsort(stable=True)]
    places = (torch.arange(min(count, len(order))) + 0.5) * (len(order) / min(count, len(order)))
    return order[places.long()]


def views_of(dataset: Dataset, indices: Tensor, spec: BackboneSpec, device: torch.device) -> Tensor:
    """(B, C, S, S) in 0..1: these images as the model sees them."""
    images = next(dataset.batches([indices], device))
    return evaluation_view(images, size=spec.image_size, interpolation=spec.interpolation)


def _shown(dataset: Dataset, indices: Tensor, spec: BackboneSpec, device: torch.device) -> Shown:
    return Shown(
        views=views_of(dataset, indices, spec, device),
        labels=tuple(dataset.labels[indices].tolist()),
        names=tuple(str(dataset.names[index]) for index in indices.tolist()),
    )


def _shown_files(words: Sequence[str], run: Run, runtime: Runtime) -> Shown:
    """Files, and the images in folders, as the run would see them."""
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
