"""A run that is to be explained: its model, the images of its data, and those that are looked at one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data import layout as layouts
from ..data import sources
from ..data.augment import evaluation_view
from ..data.dataset import EIGHT_BITS, Dataset, LoadingConfig, to_unit
from ..data.decode import Layout, squares_of
from ..data.formats import SUFFIXES, UnreadableError, header
from ..engine import checkpoint
from ..engine.errors import InputError
from ..engine.runtime import Runtime
from ..engine.words import counted
from ..models import initialize
from ..models.backbones import Backbone, BackboneSpec, freeze
from ..models.classifier import Classifier, has_head, load_classifier
from ..stages.matching import matched

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
    path: Path,
    name: str,
    runtime: Runtime,
    *,
    data: str,
    loading: LoadingConfig,
    files: Sequence[Path],
    split: str,
    count: int,
) -> Subject:
    """Load a run and its images.

    Args:
        path: the run's folder.
        name: what to call it.
        runtime: the device.
        data: the run's data; empty: only `files` are looked at.
        loading: how the data is read.
        files: images of the user's own; without any, `count` images of `split` are looked at.
        split: of the data.
        count: how many.
    """
    backbone, _ = initialize.from_checkpoint(path)
    freeze(backbone.to(runtime.device))
    dataset = None
    if data:
        dataset = sources.load(data, image_size=backbone.spec.image_size, config=loading)
        dataset = matched(dataset, backbone.spec, path, loading)
        for line in dataset.notes:
            runtime.say(line)
    classes, classifier = dataset.classes if dataset else (), None
    if has_head(path):
        classes = classes or tuple(checkpoint.load_description(path, "head")["classes"])
        remedy = (
            f"Give data with the same classes; or {path / 'backbone'}, its features alone, for maps and neighbours."
        )
        classifier = load_classifier(path, backbone, classes, remedy=remedy).to(runtime.device)
        classifier.head.requires_grad_(False)
    if files:
        shown = _shown_files(files, backbone.spec, runtime.device)
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


def _shown_files(paths: Sequence[Path], spec: BackboneSpec, device: torch.device) -> Shown:
    """Files, and the images in folders, as the model sees them."""
    files = [file for path in paths for file in _files_of(path)]
    if len(files) > MOST_IMAGES:
        raise InputError(f"--images: {counted(len(files), 'image')}; at most {MOST_IMAGES} are shown. Give fewer.")
    try:
        pixels = torch.from_numpy(squares_of(files, _layout_of(files, spec)))
    except (UnreadableError, OSError) as error:
        raise InputError(f"--images: {error}") from error
    if (pixels.dtype == torch.uint8) != (spec.value_range == EIGHT_BITS):
        low, high = spec.value_range
        raise InputError(
            f"--images: of {pixels.dtype}, and the run was trained on values of {low:g} to {high:g}: another depth."
        )
    images = to_unit(pixels.to(device), spec.value_range)
    view = evaluation_view(images, size=spec.image_size, interpolation=spec.interpolation)
    return Shown(views=view, labels=(-1,) * len(files), names=tuple(str(file) for file in files))


def _files_of(path: Path) -> list[Path]:
    path = path.expanduser()
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else []
    if not found:
        raise InputError(f"--images {path}: there is no such file, nor a folder with images.")
    return found


def _layout_of(files: Sequence[Path], spec: BackboneSpec) -> Layout:
    """How these files are brought to what the model takes: 8-bit images to its channels, others as they are.

    Raises:
        UnreadableError: one is no image.
        InputError: their channels are others.
    """
    headers, names = [], [str(file) for file in files]
    for file in files:
        try:
            headers.append(header(file))
        except UnreadableError as error:
            raise UnreadableError(f"{file}: {error}") from error
    found, _ = layouts.agree(headers, names, spec.image_size, LoadingConfig())
    if found.dtype == "uint8" and spec.in_chans in (1, 3, 4) and found.channels != spec.in_chans:
        asked = LoadingConfig(channels="grey" if spec.in_chans == 1 else "rgb" if spec.in_chans == 3 else "rgba")
        found, _ = layouts.agree(headers, names, spec.image_size, asked)
    if found.channels != spec.in_chans:
        raise InputError(f"--images: of {found.channels} channels, and the run takes {spec.in_chans}.")
    return found
