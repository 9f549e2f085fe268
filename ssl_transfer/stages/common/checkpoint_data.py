"""Match images with the run whose weights they meet.

Channels and depth must agree, and no image that measures the run may have trained it: a division depends on settings,
and another seed moves images from one run's pool to the next run's test part.
"""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from ssl_transfer.data.dataset import LEAST_SHARED, MOST_SHARED, Dataset, overlap
from ssl_transfer.data.domains import coloured
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.errors import InputError
from ssl_transfer.models.backbones import BackboneSpec

from .run import Run

MEASURING = ("validation", "test")


def own_images(run: Run, data: str, loading: LoadingConfig) -> tuple[str, LoadingConfig]:
    """Choose the images to measure a run on, and how to read them: as asked, or by default as the run read its own.

    Args:
        run: to be measured.
        data: a DATA string; empty: those of the run, of an adaptation the target. It stays empty where the run does
            not name them, and of a stream.
        loading: values that differ from the defaults override those of the run.
    """
    if data:
        return data, loading
    if run.loading.streaming:
        return "", loading
    default = LoadingConfig()
    asked = {
        field.name: value
        for field in fields(LoadingConfig)
        if (value := getattr(loading, field.name)) != getattr(default, field.name)
    }
    return run.data, replace(run.loading, **asked)


def matched(dataset: Dataset, run: Run | None, loading: LoadingConfig) -> Dataset:
    """Adapt images to the run whose weights they meet: channels, range of values, no training image in a measure.

    Args:
        dataset: as loaded.
        run: None changes nothing.
        loading: of `dataset`. A `value_range` of the user's is kept; `leakage` decides about training images of the
            run in validation or test.

    Raises:
        InputError: another number of channels, values of another depth, images that trained the run.
    """
    if run is None:
        return dataset
    dataset = replace(dataset, notes=(*dataset.notes, *run.notes))
    spec, path = run.spec, run.path
    if (spec.in_chans, dataset.num_channels) == (3, 1) and "target" in run.settings:
        # An adaptation between colour and grey images repeated the grey channel.
        dataset = coloured(dataset)
    if spec.in_chans != dataset.num_channels:
        raise InputError(
            f"{path} takes images of {counted(spec.in_chans, 'channel')}; {dataset.source} has {dataset.num_channels}. "
            "For 8-bit images --loading.channels grey or rgb makes them so."
        )
    dataset = _without_seen(dataset, run, loading)
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


def _without_seen(dataset: Dataset, run: Run, loading: LoadingConfig) -> Dataset:
    seen, path = run.seen, run.path
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
