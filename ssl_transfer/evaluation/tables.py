"""The tables of a comparison, in long form: results.csv, summary.csv, curves.csv."""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..engine.checkpoint import write_text
from ..engine.errors import InputError
from .statistics import SUMMARY_COLUMNS, Row, summarize

RESULT_COLUMNS = tuple(field.name for field in fields(Row))
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
    costs = {
        "transfer_seconds": sum(phase["seconds"] for phase in result["phases"].values()),
        "pretrain_seconds": pretraining["seconds"] if pretraining else 0.0,
        "images_seen": float(pretraining["images_seen"] if pretraining else 0),
        "peak_memory_mb": max(
            [phase["peak_memory_mb"] for phase in result["phases"].values()]
            + ([pretraining["peak_memory_mb"]] if pretraining else [])
        ),
        "num_parameters": float(result["num_parameters"]),
    }
    costs |= _energy(result["phases"], pretraining)
    rows += [
        Row(**key, phase=phase, split="train", metric="seconds", value=found["seconds"])
        for phase, found in result["phases"].items()
    ]
    if pretraining and "knn_accuracy" in pretraining:
        rows.append(
            Row(**key, phase="chosen", split="validation", metric="knn_accuracy", value=pretraining["knn_accuracy"])
        )
    return rows + [Row(**key, phase="chosen", split="train", metric=name, value=value) for name, value in costs.items()]


def _energy(phases: dict[str, Any], pretraining: dict[str, Any] | None) -> dict[str, float]:
    """`pretrain_joules` and `transfer_joules`; nothing where a part has none (no sensor, an older version)."""
    parts = [phase.get("energy_joules") for phase in phases.values()]
    before = pretraining.get("energy_joules") if pretraining else 0.0
    if before is None or any(part is None for part in parts):
        return {}
    return {"pretrain_joules": before, "transfer_joules": sum(parts)}


def curves_of(key: dict[str, Any], metrics: Path) -> list[dict[str, Any]]:
    """The lines that one transfer run adds to `curves.csv`: its log in long form."""
    lines = []
    for text in metrics.read_text(encoding="utf-8").splitlines():
        record = json.loads(text)
        place = {name: record.pop(name, "") for name in ("phase", "epoch", "step", "split")}
        if place["phase"] != "chosen":
            lines += [{**key, **place, "metric": metric, "value": value} for metric, value in record.items()]
    return lines


def write(folder: Path, rows: Sequence[Row], curves: Sequence[dict[str, Any]]) -> None:
    """Write the three tables; `summary.csv` follows from the rows."""
    _write_csv(folder / "results.csv", RESULT_COLUMNS, [asdict(row) for row in rows])
    _write_csv(folder / "curves.csv", CURVE_COLUMNS, curves)
    write_summary(folder, rows)


def write_summary(folder: Path, rows: Sequence[Row]) -> None:
    """Write `summary.csv` from results."""
    _write_csv(folder / "summary.csv", SUMMARY_COLUMNS, summarize(rows))


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
