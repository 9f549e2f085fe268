"""List `folder:PATH`: images in PATH/train/<class>/**, with val/, test/ and unlabeled/, or PATH/<class>/**."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.data.dataset import PARTS, UNLABELED
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.store.content_key import of_files
from ssl_transfer.data.store.image_files import SUFFIXES
from ssl_transfer.data.store.listing import NAMES, Listing
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.io.home_folder import expanded

FORM = "images in PATH/train/<class>/*, with val/, test/ and unlabeled/ beside it, or PATH/<class>/*"
_FOLDERS = {"unlabeled": "unlabeled", "train": "train", "val": "validation", "validation": "validation", "test": "test"}


class Files(Sequence[Path]):
    """Files by their paths inside a folder, (N,) strings."""

    def __init__(self, root: Path, names: np.ndarray) -> None:
        self._root, self._names = root, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        return self._root / self._names[index]

    def key(self, config: LoadingConfig) -> str:
        """Compute the key of the files; only those that may have changed are read."""
        return of_files(self._root, self._names)(config)


def read(path: Path) -> Listing:
    """List a folder.

    Raises:
        InputError: it is missing or empty, has one class, images outside classes, or folders that are no part of it.
    """
    source = f"folder:{path}"
    path = expanded(path, flag="--data folder:")
    if not path.is_dir():
        raise InputError(f"--data {source}: there is no such folder (looked from {Path.cwd()}).")
    folders = sorted(child.name for child in path.iterdir() if child.is_dir() and child.name in _FOLDERS)
    if folders:
        _refuse_strangers(path)
    names: list[str] = []
    labels: list[str] = []
    parts: list[int] = []
    for folder in folders or ["."]:
        part = _FOLDERS.get(folder, "train")
        inside = image_names(path / folder)
        names += [name if folder == "." else f"{folder}/{name}" for name in inside]
        labels += [_class_of(name, path / folder, part) for name in inside]
        parts += [PARTS.index(part)] * len(inside)
    if not names:
        raise InputError(f"--data {source}: no images there. Expected {FORM}; {', '.join(sorted(SUFFIXES))}.")
    try:
        array = np.array(names, NAMES)
    except UnicodeEncodeError as error:
        strange = next(name for name in names if not _is_text(name))
        raise InputError(
            f"--data folder:{path}: the name {os.fsencode(strange)!r} is no text in UTF-8. Rename it, for example with "
            "`convmv -f latin1 -t utf8`."
        ) from error
    files = Files(path, array)
    codes, classes = encode_labels(labels)
    check_classes(codes, classes, np.array(parts, np.int8), source)
    return Listing(
        items=files,
        key=files.key,
        names=array,
        labels=codes,
        classes=classes,
        parts=np.array(parts, np.int8),
    )


def encode_labels(labels: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Encode class names, empty for no label, as (N,) int64 and sorted names."""
    classes = sorted({label for label in labels if label})
    number = {name: index for index, name in enumerate(classes)}
    codes = np.fromiter((number.get(label, UNLABELED) for label in labels), np.int64, len(labels))
    return codes, tuple(classes)


def check_classes(labels: np.ndarray, classes: tuple[str, ...], parts: np.ndarray, source: str) -> None:
    """Raise InputError for a single class, and for classes that only validation or test has.

    Data without any labelled training image passes: the target of an adaptation may have labels for its test part
    alone. Training on labels refuses it later.
    """
    if len(classes) == 1:
        raise InputError(
            f"--data {source}: only one class, {classes[0]!r}. Comparing needs two or more, each a subfolder; "
            "images without labels belong into unlabeled/."
        )
    trained = np.unique(labels[parts == PARTS.index("train")])
    for part in ("validation", "test") if len(trained) else ():
        extra = np.setdiff1d(labels[(parts == PARTS.index(part)) & (labels >= 0)], trained)
        if len(extra):
            named = ", ".join(classes[index] for index in extra)
            raise InputError(f"--data {source}: {part} has classes that train has not: {named}.")


def _refuse_strangers(path: Path) -> None:
    """Refuse unknown folders: a misspelt part would be ignored silently."""
    for child in sorted(path.iterdir()):
        if child.name in _FOLDERS or child.name.startswith(".") or not child.is_dir():
            continue
        if any(image_names(child)):
            raise InputError(
                f"--data folder:{path}: {child.name}/ holds images but is none of {', '.join(_FOLDERS)}."
                f"{did_you_mean(child.name, _FOLDERS)} Rename it, or move it elsewhere."
            )


def image_names(folder: Path) -> list[str]:
    """List the paths, inside a folder, of all images at any depth, sorted, without hidden ones."""
    suffixes = tuple(SUFFIXES)
    found = []
    # Of each folder where it and those above it really lie: a link back to one of them would be walked without end.
    above = {str(folder): {os.path.realpath(folder)}}
    for place, folders, files in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(os.path.join(place, name)) for name in folders if not name.startswith(".")}
        chain = above.pop(place)
        folders[:] = [name for name in real if real[name] not in chain]
        above |= {os.path.join(place, name): chain | {real[name]} for name in folders}
        inside = os.path.relpath(place, folder)
        for name in files:
            if not name.startswith(".") and name.lower().endswith(suffixes):
                found.append(name if inside == "." else f"{inside}/{name}")
    # Folder by folder, as pathlib sorts.
    return sorted(found, key=lambda name: name.split("/"))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _class_of(name: str, folder: Path, part: str) -> str:
    """Return the first folder's name, or an empty string for an image without a label."""
    if part == "unlabeled":
        return ""
    label, slash, _ = name.partition("/")
    if not slash:
        raise InputError(
            f"{folder / name}: an image outside a class folder. Put it into {folder}/<class>/, "
            "or without a label into unlabeled/."
        )
    return label
