"""List `folder:PATH/labels.csv` (or .parquet): a table of images with paths relative to it.

A table may come from an untrusted source, so it cannot refer to files outside its folder. An absolute path, or one with
`..` in it, is refused. A symbolic link inside the folder is followed, as in any folder of images.

Columns: `path`, `label` (empty without one), and if given `split`. Any further column can group images.
"""

import csv
import io
from pathlib import Path

import numpy as np

from ssl_transfer.data.dataset import PARTS
from ssl_transfer.data.store.listing import NAMES, Listing, part_number
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.io.home_folder import expanded

from .folder import Files, check_classes, encode_labels
from .optional import need

SUFFIXES = (".csv", ".tsv", ".parquet")
PATH_NAMES = ("path", "file", "filename", "file_name", "image", "image_path")
"""Accepted names of the column of paths."""
_ALIASES = {
    "path": PATH_NAMES,
    "label": ("label", "class", "target", "class_name"),
    "split": ("split", "part", "subset", "fold"),
}


def read(table: Path) -> Listing:
    """List the images of a table.

    Raises:
        InputError: no such table, no column of paths, a path that is missing or leaves the folder, one class.
    """
    source = f"folder:{table}"
    file = expanded(table, flag="--data folder:")
    if not file.is_file():
        raise InputError(f"--data {source}: there is no such file (looked from {Path.cwd()}).")
    columns = _parquet(file) if file.suffix == ".parquet" else _csv(file)
    found = {meaning: next((name for name in names if name in columns), None) for meaning, names in _ALIASES.items()}
    if found["path"] is None:
        raise InputError(
            f"--data {source}: no column `path`; there are {', '.join(columns) or 'none'}."
            f"{did_you_mean('path', columns)}"
        )
    names = np.array(columns[found["path"]], NAMES)
    if not len(names):
        raise InputError(f"--data {source}: no rows.")
    _check_paths(file, names)
    labels, classes = encode_labels(columns[found["label"]] if found["label"] else [""] * len(names))
    if found["split"]:
        parts = np.array([part_number(text, source) for text in columns[found["split"]]], np.int8)
    else:
        parts = np.where(labels >= 0, PARTS.index("train"), PARTS.index("unlabeled")).astype(np.int8)
    bare = (labels < 0) & (parts != PARTS.index("unlabeled"))
    if bare.any():
        raise InputError(
            f"--data {source}: {names[bare.argmax()]} has no label but the split "
            f"{PARTS[parts[bare.argmax()]]}; leave the split `unlabeled`."
        )
    check_classes(labels, classes, parts, source)
    files = Files(file.parent, names)
    return Listing(
        items=files,
        key=files.key,
        names=names,
        labels=labels,
        classes=classes,
        parts=parts,
        columns={name: np.array(values, NAMES) for name, values in columns.items() if name not in found.values()},
    )


def _csv(file: Path) -> dict[str, list[str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"--data folder:{file}: byte {error.start} is not UTF-8. Save the table as UTF-8 (as 'CSV UTF-8' in Excel)."
        ) from error
    dialect = "excel-tab" if file.suffix == ".tsv" else "excel"
    reader = csv.DictReader(io.StringIO(text, newline=""), dialect=dialect, strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"--data folder:{file}: line {reader.line_num}: {error}.") from error
    ragged = next((number for number, row in enumerate(rows, start=2) if None in row or None in row.values()), None)
    if ragged:
        raise InputError(f"--data folder:{file}: row {ragged} has another number of fields than the header.")
    return {name: [row[name] for row in rows] for name in reader.fieldnames or ()}


def _parquet(file: Path) -> dict[str, list[str]]:
    need("pyarrow", extra="table", source=f"folder:{file}")
    from pyarrow import ArrowInvalid, parquet

    try:
        table = parquet.read_table(file)
    except (ArrowInvalid, OSError) as error:
        raise InputError(f"--data folder:{file}: not a readable parquet file ({error}).") from error
    return {
        name: ["" if value is None else str(value) for value in table.column(name).to_pylist()]
        for name in table.column_names
    }


def _check_paths(file: Path, names: np.ndarray) -> None:
    """Refuse paths outside the table's folder and files that are missing."""
    root = file.parent.resolve()
    missing = []
    for name in names:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"--data folder:{file}: {name} lies outside {root}. Put the table above its images.")
        if not (root / name).is_file():
            missing.append(name)
    if missing:
        raise InputError(
            f"--data folder:{file}: {len(missing)} of {len(names)} files are not there (first: {missing[0]}, "
            f"looked for in {root})."
        )
