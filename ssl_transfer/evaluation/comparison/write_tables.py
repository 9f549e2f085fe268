"""Write the tables of a comparison in long form: results.csv, summary.csv, curves.csv, correct test images.

Tables that are read back or joined by a name (`write_lines`) keep every name as it is: a spreadsheet takes a cell that
begins with = + - @ for a formula, so it must import them as text. Tables for people alone (`write_readable_lines`) have
such cells defused.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import write_atomically, write_text
from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.io.npy_files import load_array
from ssl_transfer.engine.printable import one_line
from ssl_transfer.engine.runs.seal import verify

from .results import Hits, Results, Row
from .summary_table import SUMMARY_COLUMNS, summarize
from .tables.run_checks import repeated
from .tables.table_files import CURVE_COLUMNS, CURVES_FILE, HITS_FILE, RESULT_COLUMNS, RESULTS_FILE

PREDICTED = "predicted.npy"
"""In a transfer run's folder: predicted classes of the test images, (N,) int32, in the order of the split."""
MEASURED = ("seconds", "transfer_seconds", "pretrain_seconds", "peak_memory_mb", "transfer_joules", "pretrain_joules")
"""Metrics of results.csv that depend on the machine; all others are the same when a run is repeated."""

_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""First characters of a formula, in their full-width forms too."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def rows_of(key: dict[str, Any], result: dict[str, Any], pretraining: dict[str, Any] | None) -> list[Row]:
    """Return the lines of one transfer run for `results.csv`, with the costs of its pretraining.

    Args:
        key: arm, backbone, labels, seed.
        result: of the transfer stage.
        pretraining: result of the pretraining stage; None for arms without.
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
    # The cost of a tuned run is that of all its trials.
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
    if "path" in result:
        rows += [
            Row(**key, phase=phase, split="validation", metric="chosen_share", value=float(phase == result["chosen"]))
            for phase in result["phases"]
        ]
    rows += _tuning_rows(key, result)
    return rows + [Row(**key, phase="chosen", split="train", metric=name, value=value) for name, value in costs.items()]


def _tuning_rows(key: dict[str, Any], result: dict[str, Any]) -> list[Row]:
    """Return the settings that validation chose among the trials of a tuned run: learning rates, weight decay."""
    if "tuned" not in result:
        return []
    trials = result["tuned"]["trials"]
    chosen = trials[result["tuned"]["chosen"]]
    rates = dict(chosen["learning_rates"])
    if result["chosen"] in rates:
        rates["chosen"] = rates[result["chosen"]]
    values = [
        *((phase, "chosen_learning_rate", rate) for phase, rate in rates.items()),
        ("chosen", "chosen_weight_decay", chosen["weight_decay"]),
        ("chosen", "num_trials", float(len(trials))),
    ]
    return [Row(**key, phase=phase, split="validation", metric=metric, value=value) for phase, metric, value in values]


def _energy(spent: Sequence[dict[str, Any]], pretraining: dict[str, Any] | None) -> dict[str, float]:
    """Return `pretrain_joules` and `transfer_joules`; empty where a part lacks one (no sensor, an older version)."""
    parts = [one["energy_joules"] for one in spent if one.get("energy_joules") is not None]
    before = pretraining.get("energy_joules") if pretraining else 0.0
    if before is None or len(parts) < len(spent):
        return {}
    return {"pretrain_joules": before, "transfer_joules": sum(parts)}


def curves_of(key: dict[str, Any], metrics: Path, path: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the lines of one transfer run for `curves.csv`: the numbers of its log in long form.

    The names of images in skipped steps stay in the log.

    Args:
        key: arm, backbone, labels, seed.
        metrics: the run's log.
        path: phases of the chosen plan (`path` of the result); None takes all.
    """
    lines = []
    verify(metrics.parent, metrics.name)
    for record in read_lines(metrics):
        place = {name: record.pop(name, "") for name in ("phase", "epoch", "step", "split")}
        if place["phase"] != "chosen" and (path is None or place["phase"] in path):
            numbers = {metric: value for metric, value in record.items() if not isinstance(value, list)}
            lines += [{**key, **place, "metric": metric, "value": value} for metric, value in numbers.items()]
    return lines


def hits_of(folder: Path, truth: np.ndarray, *, num_classes: int | None = None) -> np.ndarray | None:
    """Read the correct test images of one transfer run; None where an older version stored no predictions.

    Args:
        folder: of the run.
        truth: (N,) true classes of the test images.
        num_classes: greatest predicted class plus one; None leaves it unchecked.

    Returns:
        (N,) uint8: 1 where the prediction is correct.

    Raises:
        InputError: the predictions are not (N,) whole numbers below the number of classes.
    """
    path = folder / PREDICTED
    verify(folder, PREDICTED)
    if not path.is_file():
        return None
    predicted = load_array(path, remedy=repeated(folder))
    if predicted.shape != truth.shape or predicted.dtype.kind not in "iu":
        found = f"{predicted.dtype} of shape {predicted.shape}"
        raise InputError(
            f"{path}: holds {found}, but must hold one whole number for each of {len(truth)} test images. "
            f"{repeated(folder)}"
        )
    if len(predicted) and (predicted.min() < 0 or (num_classes is not None and predicted.max() >= num_classes)):
        wrong = predicted.min() if predicted.min() < 0 else predicted.max()
        raise InputError(f"{path}: predicts class {wrong}, but there are {num_classes} classes. {repeated(folder)}")
    return (predicted == truth).astype(np.uint8)


def without_predictions(folder: Path) -> str:
    """Return the message for a run whose predictions are missing."""
    return f"{folder / PREDICTED}: missing, so that its test images have no interval. {repeated(folder)}"


def write(folder: Path, results: Results) -> None:
    """Write `results.csv`, `curves.csv`, the correct test images, and `summary.csv`, which follows from them."""
    _write_csv(folder / RESULTS_FILE, RESULT_COLUMNS, (asdict(row) for row in results.rows))
    _write_csv(folder / CURVES_FILE, CURVE_COLUMNS, results.curve_lines)
    _write_hits(folder / HITS_FILE, results.hits)
    write_summary(folder, results)


def write_summary(folder: Path, results: Results) -> None:
    """Write `summary.csv`."""
    _write_csv(folder / "summary.csv", SUMMARY_COLUMNS, summarize(results))


def _write_hits(path: Path, hits: Hits) -> None:
    """Write `names` (R, 4): arm, backbone, labels, seed of each run, and `hits`: one row a run, eight images a byte."""
    runs = [((*cell[:3], str(seed)), images) for cell, by_seed in hits.items() for seed, images in by_seed.items()]
    names = np.array([name for name, _ in runs], dtype=np.str_)
    # Of one comparison, so of one test split.
    images = np.array([images for _, images in runs], dtype=np.uint8)

    def write(aside: Path) -> None:
        # numpy would add a suffix to a name.
        with open(aside, "wb") as file:
            np.savez(file, names=names, hits=np.packbits(images, axis=-1), num_images=images.shape[-1])

    write_atomically(path, write)


def write_lines(path: Path, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Write a table of any columns, whole or not at all; nan becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in line] for line in lines)
    write_text(path, text.getvalue())


def write_readable_lines(path: Path, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Write a table for people alone, as `write_lines`: no cell is a formula, or holds a control character."""
    write_lines(path, columns, ([defused(cell) if isinstance(cell, str) else cell for cell in line] for line in lines))


def defused(cell: str) -> str:
    """Return a cell that a spreadsheet shows as text; numbers stay numbers.

    An apostrophe before = + - @ turns a formula into text (OWASP, "CSV Injection").
    """
    text = one_line(cell)
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def _write_csv(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())
