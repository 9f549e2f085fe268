"""The tables of a comparison, in long form: results.csv, summary.csv, curves.csv; and which test images were right."""

import csv
import io
import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import write_atomically, write_text
from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.io.npy_files import load_array

from .estimates import SUMMARY_COLUMNS, Cell, Hits, Row, summarize

RESULT_COLUMNS = tuple(field.name for field in fields(Row))
PREDICTED = "predicted.npy"
"""In a transfer run's folder: the classes that its chosen model gave the test images, (N,) int32, as the split has
them."""
MEASURED = ("seconds", "transfer_seconds", "pretrain_seconds", "peak_memory_mb", "transfer_joules", "pretrain_joules")
"""Metrics of results.csv that the machine has a part in; all others are the same each time that a run is repeated."""
_ALL_HITS = "test_hits.npz"
CURVE_COLUMNS = ("arm", "backbone", "labels", "seed", "phase", "epoch", "step", "split", "metric", "value")


def rows_of(key: dict[str, Any], result: dict[str, Any], pretraining: dict[str, Any] | None) -> list[Row]:
    """The lines that one transfer run adds to `results.csv`, its pretraining's cost among them.

    Args:
        key: arm, backbone, labels, seed.
        result: what the transfer stage returned.
        pretraining: what the pretraining stage returned; None for arms without.
    """
    rows = []
    for phase, found in result["phases"].items():
        names = [phase, "chosen"] if phase == result["chosen"] else [phase]
        for name in names:
            for split in ("validation", "test"):
                rows += [
                    Row(**key, phase=name, split=split, metric=metric, value=value)
                    for metric, value in found[split].items()
                ]
    # A run that was tuned cost all of its trials.
    trained = result["tuned"]["trials"] if "tuned" in result else list(result["phases"].values())
    spent = [one for one in trained if "diverged" not in one]
    costs = {
        "transfer_seconds": sum(one["seconds"] for one in spent),
        "pretrain_seconds": pretraining["seconds"] if pretraining else 0.0,
        "images_seen": float(pretraining["images_seen"] if pretraining else 0),
        "peak_memory_mb": max(
            [one["peak_memory_mb"] for one in spent] + ([pretraining["peak_memory_mb"]] if pretraining else [])
        ),
        "num_parameters": float(result["num_parameters"]),
    }
    costs |= _energy(spent, pretraining)
    rows += [
        Row(**key, phase=phase, split="train", metric="seconds", value=found["seconds"])
        for phase, found in result["phases"].items()
    ]
    if pretraining and "knn_accuracy" in pretraining:
        rows.append(
            Row(**key, phase="chosen", split="validation", metric="knn_accuracy", value=pretraining["knn_accuracy"])
        )
    rows += _tuning_rows(key, result)
    return rows + [Row(**key, phase="chosen", split="train", metric=name, value=value) for name, value in costs.items()]


def _tuning_rows(key: dict[str, Any], result: dict[str, Any]) -> list[Row]:
    """What validation chose among the trials of a run that was tuned: each phase's rate, the decay that all share."""
    if "tuned" not in result:
        return []
    trials = result["tuned"]["trials"]
    chosen = trials[result["tuned"]["chosen"]]
    rates = {**chosen["learning_rates"], "chosen": chosen["learning_rates"][result["chosen"]]}
    values = [
        *((phase, "chosen_learning_rate", rate) for phase, rate in rates.items()),
        ("chosen", "chosen_weight_decay", chosen["weight_decay"]),
        ("chosen", "num_trials", float(len(trials))),
    ]
    return [Row(**key, phase=phase, split="validation", metric=metric, value=value) for phase, metric, value in values]


def _energy(spent: Sequence[dict[str, Any]], pretraining: dict[str, Any] | None) -> dict[str, float]:
    """`pretrain_joules` and `transfer_joules`; nothing where a part has none (no sensor, an older version)."""
    parts = [one["energy_joules"] for one in spent if one.get("energy_joules") is not None]
    before = pretraining.get("energy_joules") if pretraining else 0.0
    if before is None or len(parts) < len(spent):
        return {}
    return {"pretrain_joules": before, "transfer_joules": sum(parts)}


def curves_of(key: dict[str, Any], metrics: Path) -> list[dict[str, Any]]:
    """The lines that one transfer run adds to `curves.csv`: its log in long form."""
    lines = []
    for record in read_lines(metrics):
        place = {name: record.pop(name, "") for name in ("phase", "epoch", "step", "split")}
        if place["phase"] != "chosen":
            lines += [{**key, **place, "metric": metric, "value": value} for metric, value in record.items()]
    return lines


def hits_of(key: dict[str, Any], folder: Path, truth: np.ndarray) -> dict[Cell, dict[int, np.ndarray]]:
    """Which test images one transfer run got right; empty where an older version has not kept it.

    Args:
        key: arm, backbone, labels, seed.
        folder: the run's.
        truth: (N,) the classes of the test images.
    """
    path = folder / PREDICTED
    cell: Cell = (key["arm"], key["backbone"], key["labels"], "chosen", "accuracy")
    if not path.is_file():
        return {}
    return {cell: {key["seed"]: (load_array(path) == truth).astype(np.uint8)}}


def write(folder: Path, rows: Sequence[Row], curves: Sequence[dict[str, Any]], hits: Hits | None = None) -> None:
    """Write the three tables and what lies under `hits`; `summary.csv` follows from both."""
    _write_csv(folder / "results.csv", RESULT_COLUMNS, [asdict(row) for row in rows])
    _write_csv(folder / "curves.csv", CURVE_COLUMNS, curves)
    _write_hits(folder / _ALL_HITS, hits or {})
    write_summary(folder, rows, hits)


def write_summary(folder: Path, rows: Sequence[Row], hits: Hits | None = None) -> None:
    """Write `summary.csv` from results."""
    _write_csv(folder / "summary.csv", SUMMARY_COLUMNS, summarize(rows, hits))


def _write_hits(path: Path, hits: Hits) -> None:
    """`names` (R, 4): arm, backbone, labels and seed of each run; `hits`: one row a run, eight images a byte."""
    runs = [((*cell[:3], str(seed)), images) for cell, held in hits.items() for seed, images in held.items()]
    names = np.array([name for name, _ in runs], dtype=np.str_)
    # Of one comparison, so of one test split.
    images = np.array([images for _, images in runs], dtype=np.uint8)

    def write(aside: Path) -> None:
        # numpy would add a suffix to a name.
        with open(aside, "wb") as file:
            np.savez(file, names=names, hits=np.packbits(images, axis=-1), num_images=images.shape[-1])

    write_atomically(path, write)


def read_hits(folder: Path) -> dict[Cell, dict[int, np.ndarray]]:
    """What `write` was given as `hits`; empty where the comparison is of a version that kept none."""
    found: dict[Cell, dict[int, np.ndarray]] = {}
    if not (folder / _ALL_HITS).is_file():
        return found
    try:
        with np.load(folder / _ALL_HITS, allow_pickle=False) as opened:
            held = dict(opened)
        rows = np.unpackbits(held["hits"], axis=-1, count=int(held["num_images"]))
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{folder / _ALL_HITS}: not readable ({error}). Start the comparison again.") from error
    for (arm, backbone, labels, seed), images in zip(held["names"].tolist(), rows, strict=True):
        found.setdefault((arm, backbone, labels, "chosen", "accuracy"), {})[int(seed)] = images
    return found


def summary_numbers(rows: Sequence[Row], hits: Hits | None = None) -> dict[str, float]:
    """`summary.csv` as numbers by name, without those that are unknown.

    `simclr/resnet18/5/chosen/accuracy/mean`, `.../difference to scratch`: the key, then the column.
    """
    baseline = SUMMARY_COLUMNS.index("baseline")
    numbers = {}
    for line in summarize(rows, hits):
        key = [str(line[column]) for column in SUMMARY_COLUMNS[:5]]
        for column in SUMMARY_COLUMNS[5:]:
            value = line[column]
            against = f" to {line['baseline']}" if SUMMARY_COLUMNS.index(column) > baseline else ""
            if isinstance(value, (int, float)) and math.isfinite(value):
                numbers["/".join([*key, f"{column}{against}"])] = float(value)
    return numbers


def read_results(folder: Path) -> list[Row]:
    """The rows of `results.csv`."""
    return [
        Row(**{**line, "seed": int(line["seed"]), "value": float(line["value"])})
        for line in _read(folder / "results.csv")
    ]


def read_curves(folder: Path) -> list[dict[str, str]]:
    """The lines of `curves.csv`."""
    return _read(folder / "curves.csv")


def write_lines(path: Path, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Write a table of any columns whole or not at all. What is nan is left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in line] for line in lines)
    write_text(path, text.getvalue())


def read_optional(path: Path) -> list[dict[str, str]]:
    """The lines of a table that comparisons of older versions do not have; none where it is absent."""
    return _read(path) if path.is_file() else []


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: there is no such table. Give the folder of a comparison that has finished.")
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write_csv(path: Path, columns: Sequence[str], lines: Iterable[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())
