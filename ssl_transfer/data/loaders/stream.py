"""Open a stream of images from the hub, for pretraining on more images than the disk holds.

A stream has no random access, so mean, deviation, channels and range of values are those of its first images.
`stream_loader.py` makes batches of it.
"""

import contextlib
import hashlib
import itertools
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from ssl_transfer.data.dataset import EIGHT_BITS, PARTS, Dataset, Moments
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.sources import huggingface
from ssl_transfer.data.store.decode import Layout, Measured, headers_of, measured
from ssl_transfer.data.store.image_files import Encoded, UnreadableError
from ssl_transfer.data.store.storage_layout import agree
from ssl_transfer.engine.errors import InputError

SAMPLE = 512
"""Images at the start of the stream that its statistics are measured on."""
_USED = ("streaming", "stream_images", "channels", "background", "value_range", "stored_size", "max_unreadable")
_HARMLESS = ("workers", "download", "downloads", "cache")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Hold a stream of encoded images, its layout and its statistics."""

    rows: Any
    """Iterable data set of the library: one column of encoded images."""
    column: str
    num_images: int
    layout: Layout
    """Size, channels and type that images are decoded to."""
    sample: Dataset
    """The first images of the stream, all in the pool. Its statistics stand for those of the stream."""
    config: LoadingConfig


def open_stream(source: str, *, image_size: int, config: LoadingConfig) -> Stream:
    """Open the training and unlabelled images of `hf:REPO` as a stream.

    Raises:
        InputError: another source; settings that would be ignored; a repository that `huggingface.read` refuses; an
            unknown number of images; no readable image.
    """
    kind, _, rest = source.partition(":")
    if kind != "hf":
        raise InputError(f"--data {source}: only hf:REPO can be streamed. Leave --loading.streaming out.")
    _refuse_ignored(config)
    path, options = huggingface.parse(rest)
    if "label" in options:
        raise InputError(f"--data {source}: label={options['label']} would be ignored, as a stream has no labels.")
    splits = huggingface.load(source, path, options, config, streaming=True)
    chosen = huggingface.parts_of(source, options, splits)
    pool = [splits[chosen[part]] for part in ("unlabeled", "train") if part in chosen]
    if not pool:
        raise InputError(f"--data {source}: no training or unlabelled images, only {', '.join(chosen)}.")
    if any(split.features is None for split in pool):
        raise InputError(f"--data {source}: does not say which columns it has, so it cannot be streamed.")
    column = huggingface.image_column(source, options, pool[0].features)
    rows = _rows(pool, column)
    num_images = config.stream_images or _num_images(source, splits, chosen)
    layout, sample = _sample(source, rows, column, num_images, image_size, config)
    return Stream(rows=rows, column=column, num_images=num_images, layout=layout, sample=sample, config=config)


def _refuse_ignored(config: LoadingConfig) -> None:
    usual = LoadingConfig()
    for field in fields(config):
        name = field.name
        if name not in (*_USED, *_HARMLESS) and getattr(config, name) != getattr(usual, name):
            raise InputError(
                f"--loading.{name.replace('_', '-')} would be ignored with --loading.streaming: leave it out."
            )


def _rows(pool: list[Any], column: str) -> Any:
    import datasets

    # The column is selected first, so that the files' other columns are not read.
    picked = [split.select_columns([column]).cast_column(column, datasets.Image(decode=False)) for split in pool]
    return picked[0] if len(picked) == 1 else datasets.concatenate_datasets(picked)


def _num_images(source: str, splits: Any, chosen: dict[str, str]) -> int:
    """Read the number of images from the description of the data set."""
    total = 0
    for name in (chosen[part] for part in ("unlabeled", "train") if part in chosen):
        described = (splits[name].info.splits or {}).get(name)
        if described is None or not described.num_examples:
            raise InputError(
                f"--data {source}: does not say how many images it has. Say how many make an epoch: "
                "--loading.stream-images 1000000"
            )
        total += described.num_examples
    return total


def _sample(
    source: str, rows: Any, column: str, num_images: int, image_size: int, config: LoadingConfig
) -> tuple[Layout, Dataset]:
    """Decode the first images, and return their layout and a data set of them."""
    try:
        items = [fetched(row[column]) for row in itertools.islice(rows, SAMPLE)]
    except Exception as error:  # Library and network raise many types; each is named to the user.
        raise InputError(f"--data {source}: cannot be streamed ({type(error).__name__}: {error}).") from error
    found = [(index, header) for index, header in enumerate(headers_of(items)) if not isinstance(header, str)]
    layout, notes = agree(
        [header for _, header in found], [f"stream[{index}]" for index, _ in found], image_size, config
    )
    names: list[str] = []
    squares: list[np.ndarray] = []
    facts: list[Measured] = []
    for index, _ in found:
        with contextlib.suppress(UnreadableError, OSError):
            pixels, fact = measured(items[index], layout)
            squares.append(pixels)
            facts.append(fact)
            names.append(f"stream[{index}]")
    notes.insert(
        0,
        f"These are the first of a stream of {num_images:,} images: mean, deviation, channels and range of values are "
        "theirs.",
    )
    if not squares:
        raise InputError(f"--data {source}: none of the first {len(items)} images can be read.")
    if len(squares) < len(items):
        notes.append(f"{len(items) - len(squares)} of the first {len(items)} images cannot be read and are left out.")
    digest = hashlib.sha256(f"{num_images}".encode())
    for one in facts:
        digest.update(one.digest.to_bytes(8, "big"))
    if config.value_range is not None or layout.dtype == "uint8":
        value_range = config.value_range or EIGHT_BITS
    else:
        value_range = (min(one.low for one in facts), max(one.high for one in facts))
    everything = torch.arange(len(squares))
    return layout, Dataset(
        source=source,
        pixels=torch.from_numpy(np.stack(squares)),
        labels=torch.full((len(squares),), -1),
        names=names,
        classes=(),
        splits={part: everything if part == "unlabeled" else everything[:0] for part in PARTS},
        fingerprint=digest.hexdigest()[:16],
        value_range=value_range,
        moments=Moments(mean=np.stack([one.mean for one in facts]), square=np.stack([one.square for one in facts])),
        notes=tuple(notes),
    )


def fetched(value: Any) -> Encoded:
    """Return an encoded image of the stream; an image in an archive or on the hub is read now."""
    if value is not None and value["bytes"] is None and "://" in (value["path"] or ""):
        from datasets.utils.file_utils import xopen

        with xopen(value["path"], "rb") as file:
            return file.read()
    return huggingface.encoded(value)
