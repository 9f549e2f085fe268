"""List `npz:PATH`: arrays in one file of numpy, in any of three forms.

- `x_train y_train x_test y_test` (also `x_val`, `x_unlabeled`), images (N, H, W) or (N, H, W, C), labels (N,);
- `train_images train_labels test_images test_labels` (also `val_...`), as in MedMNIST;
- `blob offsets labels`, encoded files end to end, image i being `blob[offsets[i]:offsets[i + 1]]`; or `images labels`.
  With `split` (N,) of train, val, test, unlabeled, and `classes` (K,) if the data has them.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.data.dataset import PARTS, UNLABELED
from ssl_transfer.data.store.content_key import fixed
from ssl_transfer.data.store.listing import NAMES, Listing, Lookup, part_number
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.home_folder import expanded

from .folder import check_classes

_FORMS = (
    "x_train y_train x_test y_test, or train_images train_labels ..., or blob offsets labels, or images labels "
    "(with split and classes)"
)


def read(path: Path) -> Listing:
    """List the images of a file of arrays. Pickled objects are never read.

    Raises:
        InputError: no such file, not readable, arrays of another form, lengths that differ.
    """
    source = f"npz:{path}"
    file = expanded(path, flag="--data npz:")
    if not file.is_file():
        raise InputError(f"--data {source}: there is no such file (looked from {Path.cwd()}).")
    try:
        opened = np.load(file, allow_pickle=False)
        if isinstance(opened, np.ndarray):
            raise InputError(f"--data {source}: one array without names; save several with numpy.savez.")
        with opened:
            arrays = {name: opened[name] for name in opened.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--data {source}: cannot be read ({error}). Pickled objects are never loaded.") from error
    with open(file, "rb") as content:
        key = hashlib.file_digest(content, "sha256").hexdigest()
    return listing_of(arrays, source=source, key=key)


def listing_of(arrays: dict[str, np.ndarray], *, source: str, key: str) -> Listing:
    """List the images of arrays in one of the three forms."""
    items: Any
    if "blob" in arrays and "offsets" in arrays:
        blob, offsets = arrays["blob"], arrays["offsets"].astype(np.int64)
        if blob.dtype != np.uint8 or (np.diff(offsets) < 0).any() or offsets[-1] > len(blob):
            raise InputError(f"--data {source}: `blob` must be bytes and `offsets` rise within it.")
        count = len(offsets) - 1
        items = Lookup(count, lambda index: blob[offsets[index] : offsets[index + 1]].tobytes())
        labels, parts = arrays.get("labels"), arrays.get("split")
    elif "images" in arrays:
        items, labels, parts = arrays["images"], arrays.get("labels"), arrays.get("split")
        count = len(items)
    else:
        items, labels, parts = _by_part(arrays, source)
        count = len(items)
    labels = np.full(count, UNLABELED) if labels is None else np.asarray(labels)
    if len(labels) != count or (parts is not None and len(parts) != count):
        raise InputError(f"--data {source}: {count} images, but {len(labels)} labels or another number of splits.")
    codes, classes = _codes(labels, arrays.get("classes"), source)
    if parts is None:
        numbers = np.where(codes >= 0, PARTS.index("train"), PARTS.index("unlabeled")).astype(np.int8)
    else:
        numbers = np.empty(count, np.int8)
        for text in np.unique(parts):
            numbers[parts == text] = part_number(str(text), source)
    codes = np.where(numbers == PARTS.index("unlabeled"), UNLABELED, codes)
    check_classes(codes, classes, numbers, source)
    return Listing(
        items=items,
        key=fixed(key),
        names=np.array([f"{PARTS[part]}[{index}]" for index, part in enumerate(numbers)], NAMES),
        labels=codes,
        classes=classes,
        parts=numbers,
    )


def _by_part(arrays: dict[str, np.ndarray], source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join images, labels and parts of `x_train y_train ...` or `train_images train_labels ...`."""
    images, labels, parts = [], [], []
    for part in ("train", "val", "valid", "validation", "test", "unlabeled"):
        for x, y in ((f"x_{part}", f"y_{part}"), (f"{part}_images", f"{part}_labels")):
            if x not in arrays:
                continue
            count = len(arrays[x])
            images.append(arrays[x])
            found = arrays[y] if y in arrays else np.full(count, UNLABELED)
            if found.ndim == 2 and found.shape[1] == 1:
                found = found[:, 0]
            if len(found) != count or found.ndim != 1:
                raise InputError(f"--data {source}: {x} has {count} images and {y} the shape {found.shape}.")
            labels.append(found)
            parts += [part if y in arrays else "unlabeled"] * count
    if not images:
        raise InputError(f"--data {source}: has {', '.join(arrays) or 'nothing'}; expected {_FORMS}.")
    if len({array.shape[1:] for array in images}) > 1 or len({array.dtype for array in images}) > 1:
        raise InputError(f"--data {source}: the parts' images differ in shape or dtype.")
    if any(found.dtype.kind in "US" for found in labels):
        # Among texts, no label is an empty one: -1 would be read as the name of a class.
        labels = [found if found.dtype.kind in "US" else np.full(len(found), "") for found in labels]
    return np.concatenate(images), np.concatenate(labels), np.array(parts)


def _codes(labels: np.ndarray, classes: np.ndarray | None, source: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Encode labels of any kind as 0 .. K - 1, and return the class names."""
    if labels.dtype.kind in "iu":
        labels = labels.astype(np.int64)
        present = np.unique(labels[labels >= 0])
        if classes is not None:
            if len(present) and present[-1] >= len(classes):
                raise InputError(f"--data {source}: label {present[-1]}, but only {len(classes)} classes.")
            return labels, tuple(str(name) for name in classes)
        codes = np.where(labels >= 0, np.searchsorted(present, labels), UNLABELED)
        return codes, tuple(str(value) for value in present)
    if labels.dtype.kind in "US":
        names = np.unique(labels[labels != ""])
        return np.where(labels != "", np.searchsorted(names, labels), UNLABELED), tuple(str(name) for name in names)
    raise InputError(f"--data {source}: labels of {labels.dtype}; whole numbers or texts are read.")
