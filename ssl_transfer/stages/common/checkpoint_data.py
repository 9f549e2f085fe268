"""Images brought together with a checkpoint that was trained on others, or on a part of them.

Channels must be as many, values of one depth, and what measures the checkpoint must not have been in its training: a
division depends on settings, and another seed puts images of one run's pool into the next one's test part.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_transfer.data.dataset import LEAST_SHARED, MOST_SHARED, Dataset, overlap
from ssl_transfer.data.domains import coloured
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.errors import InputError
from ssl_transfer.models import pretrained
from ssl_transfer.models.backbones import BackboneSpec

MEASURING = ("validation", "test")


def own_images(path: Path, data: str, loading: LoadingConfig) -> tuple[str, LoadingConfig]:
    """Which images a run is measured on and how they are read: as asked or, where no data is named, as it did itself.

    Args:
        path: the run's folder, or its `backbone/`.
        data: a DATA string; empty: those of the run, of an adaptation the target. It stays empty where the folder does
            not say, and of a stream, which is for pretraining alone.
        loading: what differs here from the defaults wins over what the run did.
    """
    if data:
        return data, loading
    held, own, default = _settings_of(path), loading_of(path), LoadingConfig()
    if own.streaming:
        return "", loading
    asked = {
        field.name: value
        for field in fields(LoadingConfig)
        if (value := getattr(loading, field.name)) != getattr(default, field.name)
    }
    return str(held.get("target", held.get("data", ""))), replace(own, **asked)


def loading_of(path: Path) -> LoadingConfig:
    """How a run, or that of a `backbone/`, read its images; the defaults where its folder has no settings."""
    held, default = _settings_of(path), LoadingConfig()
    if "loading" not in held:
        return default
    return configuration.parse(LoadingConfig, held["loading"], (), program=str(path / "config.yaml"), default=default)


def _settings_of(path: Path) -> dict[str, Any]:
    file = (path.parent if path.name == "backbone" else path) / "config.yaml"
    return configuration.read_yaml(file) if file.is_file() else {}


def matched(dataset: Dataset, spec: BackboneSpec, path: Path, loading: LoadingConfig) -> Dataset:
    """The images as a checkpoint expects them.

    Args:
        dataset: as it was loaded.
        spec: of the checkpoint's backbone.
        path: where it lies.
        loading: with what `dataset` was loaded; a `value_range` that the user gave is kept, and `leakage` says what
            happens where the checkpoint has seen images of validation or test.

    Raises:
        InputError: another number of channels, values of another depth, images that were trained on.
    """
    if (spec.in_chans, dataset.num_channels) == (3, 1) and "target" in _settings_of(path):
        # An adaptation from colour to grey, or the reverse, saw it so.
        dataset = coloured(dataset)
    if spec.in_chans != dataset.num_channels:
        raise InputError(
            f"{path} takes images of {counted(spec.in_chans, 'channel')}; {dataset.source} has {dataset.num_channels}. "
            "For 8-bit images --loading.channels grey or rgb makes them so."
        )
    dataset = _without_seen(dataset, path, loading)
    return dataset if loading.value_range is not None else _in_range(dataset, spec, path)


def _in_range(dataset: Dataset, spec: BackboneSpec, path: Path) -> Dataset:
    (low, high), (least, most) = dataset.value_range, spec.value_range
    shared = overlap(dataset.value_range, spec.value_range)
    message = f"the values of {dataset.source} are {low:g} to {high:g}, and {path} was trained on {least:g} to {most:g}"
    remedy = f"--loading.value-range LOW HIGH says which values here are what {least:g} and {most:g} were there."
    if shared < LEAST_SHARED:
        raise InputError(f"{message[0].upper()}{message[1:]}: they are of another depth. {remedy}")
    if shared < MOST_SHARED:
        dataset = replace(dataset, notes=(*dataset.notes, f"warning: {message}. {remedy}"))
    return dataset.with_range(spec.value_range)


def _without_seen(dataset: Dataset, path: Path, loading: LoadingConfig) -> Dataset:
    seen = pretrained.seen_images(path)
    if seen is None or dataset.contents is None:
        note = f"warning: it is not known which images {path} was trained on; take care that none is tested here."
        return replace(dataset, notes=(*dataset.notes, note))
    leaked = torch.from_numpy(np.isin(dataset.contents, seen))
    found = {part: dataset.splits[part][leaked[dataset.splits[part]]] for part in MEASURING}
    if not any(len(indices) for indices in found.values()):
        return dataset
    first = next(int(indices[0]) for indices in found.values() if len(indices))
    counts = " and ".join(f"{counted(len(found[part]), 'image')} for {part}" for part in MEASURING if len(found[part]))
    message = f"{path} was trained on {counts} of {dataset.source} (for example {dataset.names[first]})"
    if loading.leakage == "stop":
        raise InputError(
            f"{message}: a measure on them shows nothing. Divide as that run did (its config.yaml has the --loading "
            "settings), or let --loading.leakage drop leave them out, allow keep them."
        )
    if loading.leakage == "allow":
        note = f"warning: {message}: results on them show little (--loading.leakage allow)."
        return replace(dataset, notes=(*dataset.notes, note))
    kept = {
        part: indices[~leaked[indices]] if part in MEASURING else indices for part, indices in dataset.splits.items()
    }
    return replace(dataset, splits=kept, notes=(*dataset.notes, f"{message}: left out (--loading.leakage drop)."))
