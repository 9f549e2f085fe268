"""List `hf:REPO`: a data set of the Hugging Face hub, or a local folder that the library `datasets` reads.

Options follow the name, separated by commas:

    hf:owner/name,image=photo,label=species     the columns, where there are several
    hf:owner/name,train=full,test=heldout       the split of each part, where names differ; only these are read
    hf:owner/name,name=large,revision=v2        the configuration and the version

The library keeps images encoded in files that it maps into memory, so a data set need not fit into memory. No code of a
data set is executed. Without `--loading.download` only data that was fetched before is read.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import constants

from ssl_transfer.data.dataset import PARTS, UNLABELED
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.store.content_key import of_files
from ssl_transfer.data.store.image_files import Encoded
from ssl_transfer.data.store.listing import NAMES, Listing, Lookup, part_number
from ssl_transfer.engine.errors import InputError, did_you_mean, reason_of
from ssl_transfer.engine.io.home_folder import expanded
from ssl_transfer.engine.io.hub import check_hub

from .hf_columns import image_column, is_scalar, label_column
from .joined_parts import Part, join
from .optional import need

_OPTIONS = ("name", "revision", "image", "label", "train", "validation", "test", "unlabeled")
_SAVED = ("dataset_dict.json", "state.json")
"""Files that the library's `save_to_disk` writes for several splits or for one."""


def read(rest: str, config: LoadingConfig) -> Listing:
    """List the images of all splits.

    Raises:
        InputError: not there or not readable; no image column or several; several label columns; splits that are no
            parts; validation or test images without labels.
    """
    source = f"hf:{rest}"
    path, options = parse(rest)
    splits = load(source, path, options, config, streaming=False)
    chosen = parts_of(source, options, splits)
    first = next(iter(splits.values()))
    if any(splits[split].features != first.features for split in chosen.values()):
        raise InputError(f"--data {source}: its splits differ in their columns.")
    image = image_column(source, options, first.features)
    label = label_column(source, options, first.features, image)
    codes, classes = _codes([_values(splits[split], label) for split in chosen.values()], first.features, label)
    for part, found in zip(chosen, codes, strict=True):
        if classes and part in ("validation", "test") and (found == UNLABELED).any():
            raise InputError(
                f"--data {source}: {int((found == UNLABELED).sum())} of {len(found)} images of the split "
                f"{chosen[part]!r} have no label. Leave it out by naming the others, as in hf:{path},train=train."
            )
    parts = [
        _part(part, splits[split], image, label, found, path, config)
        for (part, split), found in zip(chosen.items(), codes, strict=True)
    ]
    return join(parts, classes=classes, source=source)


def parse(rest: str) -> tuple[str, dict[str, str]]:
    """Parse the text after `hf:` into the name and the options."""
    path, *pieces = rest.split(",")
    options = {}
    for piece in pieces:
        key, equals, value = piece.partition("=")
        if not equals or not value or key not in _OPTIONS or key in options:
            raise InputError(
                f"--data hf:{rest}: {piece!r} is not an option; there are "
                f"{', '.join(f'{name}=...' for name in _OPTIONS)}, each once.{did_you_mean(key, _OPTIONS)}"
            )
        options[key] = value
    return path, options


def load(
    source: str, path: str, options: Mapping[str, str], config: LoadingConfig, *, streaming: bool
) -> Mapping[str, Any]:
    """Load the library's object for each split, under the library's names.

    Raises:
        InputError: the library cannot read it, or would have to fetch it and the user did not allow that.
    """
    need("datasets", extra="hf", source=source)
    import datasets

    folder = expanded(Path(path), flag="--data hf:")
    local, down = folder.exists(), ""
    if config.download and not local and not constants.HF_HUB_OFFLINE:
        try:
            check_hub()
        except OSError as error:
            # What was fetched before is read all the same.
            down = f"; {constants.ENDPOINT} cannot be reached: {error}"
    try:
        with _network(config.download and not local and not down):
            if not streaming and any((folder / name).is_file() for name in _SAVED):
                loaded = datasets.load_from_disk(str(folder))
                return loaded if isinstance(loaded, dict) else {"train": loaded}
            return datasets.load_dataset(
                str(folder) if local else path,
                name=options.get("name"),
                revision=options.get("revision"),
                streaming=streaming,
            )
    except Exception as error:  # Of the library and of the network there are many; each is named to the user.
        reason = f"({type(error).__name__}: {reason_of(error)}{down})"
        if local:
            raise InputError(f"--data {source}: cannot be read {reason}.") from error
        if config.download:
            raise InputError(f"--data {source}: could not be fetched {reason}.") from error
        raise InputError(
            f"--data {source}: neither a folder here nor in {datasets.config.HF_DATASETS_CACHE}, where the library "
            f"keeps what it fetched {reason}. Allow it to fetch with --loading.download."
        ) from error


@contextlib.contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Keep the library offline unless allowed, and its download counts off, within a `with` block."""
    from datasets import config

    before = config.HF_UPDATE_DOWNLOAD_COUNTS, config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_UPDATE_DOWNLOAD_COUNTS = False
    if not allowed:
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS, config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def parts_of(source: str, options: Mapping[str, str], splits: Mapping[str, Any]) -> dict[str, str]:
    """Map each part to its split's name, by the user's options or by the usual names."""
    there = f"it has the splits {', '.join(splits)}"
    said = {part: options[part] for part in PARTS if part in options}
    for part, split in said.items():
        if split not in splits:
            raise InputError(f"--data {source}: {part}={split}, but {there}.{did_you_mean(split, splits)}")
    if said:
        return said
    found: dict[str, str] = {}
    for split in splits:
        try:
            part = PARTS[part_number(split, source)]
        except InputError as error:
            part, cause = "", error
        if not part or part in found:
            raise InputError(
                f"--data {source}: {there}, and what {split!r} is for is not clear. Name those to use, as in "
                f"{source},train={next(iter(splits))}; there are train, validation, test and unlabeled."
            ) from (None if part else cause)
        found[part] = split
    return found


def _values(split: Any, column: str | None) -> list[Any]:
    if column is None:
        return [None] * len(split)
    return split.select_columns([column]).with_format("arrow")[:][column].to_pylist()


def _codes(
    values: list[list[Any]], features: Mapping[str, Any], label: str | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Encode the labels of each split as int64, -1 for none, and return the class names."""
    import datasets

    if label is not None and isinstance(features[label], datasets.ClassLabel):
        classes, number = features[label].names, {index: index for index in range(features[label].num_classes)}
    else:
        classes = sorted({value for split in values for value in split if value not in (None, "", -1)})
        number = {value: index for index, value in enumerate(classes)}
    codes = [np.fromiter((number.get(value, UNLABELED) for value in split), np.int64, len(split)) for split in values]
    return codes, tuple(str(name) for name in classes)


def _part(
    part: str, split: Any, image: str, label: str | None, labels: np.ndarray, path: str, config: LoadingConfig
) -> Part:
    import datasets
    import pyarrow.compute

    images = split.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    files = pyarrow.compute.struct_field(images.with_format("arrow")[:][image], "path").to_pylist()
    # A path that is not absolute is only the name that an embedded image once had.
    outside = [file for file in files if file and os.path.isabs(file)]
    read = [*(one["filename"] for one in split.cache_files), *outside]
    # Inside the folder a file is called the same wherever the folder lies.
    root = f"{expanded(Path(path), flag='--data hf:').resolve()}{os.sep}"
    called = (
        f" {file[len(root) :] if file.startswith(root) else os.path.basename(file)}" if file else "" for file in files
    )
    columns = [name for name in split.column_names if name not in (image, label) and is_scalar(split.features[name])]
    return Part(
        name=part,
        items=Lookup(len(images), lambda index: encoded(images[index][image])),
        labels=labels,
        key=of_files(Path(os.sep), read, more=f"{split._fingerprint} {image}"),
        names=np.array([f"{part}[{index}]{name}" for index, name in enumerate(called)], NAMES),
        # A million texts are not kept for nothing.
        columns={name: np.array([str(value) for value in _values(split, name)], NAMES) for name in columns}
        if config.group_by
        else {},
    )


def encoded(value: Mapping[str, Any] | None) -> Encoded:
    """Return an image as the library keeps it: its bytes or its path. A missing one is empty and is reported later."""
    if value is None or (value["bytes"] is None and value["path"] is None):
        return b""
    return value["bytes"] if value["bytes"] is not None else Path(value["path"])
