import csv
import json

import numpy as np
import pytest

from ssl_transfer.engine.errors import InputError
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.results import Results

KEY = {"arm": "simclr", "backbone": "resnet18", "labels": "5", "seed": 1}
RESULT = {
    "chosen": "finetune",
    "num_parameters": 1000,
    "phases": {
        "head": {
            "validation": {"accuracy": 0.5, "log_loss": 1.5},
            "test": {"accuracy": 0.4, "log_loss": 1.7},
            "seconds": 2.0,
            "peak_memory_mb": 100.0,
        },
        "finetune": {
            "validation": {"accuracy": 0.6, "log_loss": 1.2},
            "test": {"accuracy": 0.55, "log_loss": 1.3},
            "seconds": 3.0,
            "peak_memory_mb": 300.0,
        },
    },
}
PRETRAINING = {"seconds": 60.0, "images_seen": 5000, "peak_memory_mb": 200.0, "knn_accuracy": 0.7}


def header(path) -> list[str]:
    with open(path, newline="") as file:
        return next(csv.reader(file))


def values(rows, **wanted) -> list[float]:
    return [row.value for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def test_rows_of_a_run():
    rows = write_tables.rows_of(KEY, RESULT, PRETRAINING)
    assert all((row.arm, row.backbone, row.labels, row.seed) == ("simclr", "resnet18", "5", 1) for row in rows)
    assert values(rows, phase="head", split="test", metric="accuracy") == [0.4]
    assert values(rows, phase="finetune", split="validation", metric="log_loss") == [1.2]
    # What validation chose stands once more under its own name.
    assert values(rows, phase="chosen", split="test", metric="accuracy") == [0.55]
    assert values(rows, phase="chosen", split="validation", metric="accuracy") == [0.6]
    assert values(rows, metric="knn_accuracy", split="validation") == [0.7]
    assert values(rows, phase="head", metric="seconds") == [2.0]
    assert values(rows, phase="finetune", metric="seconds") == [3.0]
    costs = {row.metric: row.value for row in rows if (row.split, row.phase) == ("train", "chosen")}
    assert costs == {
        "transfer_seconds": 5.0,
        "pretrain_seconds": 60.0,
        "images_seen": 5000.0,
        "peak_memory_mb": 300.0,
        "num_parameters": 1000.0,
    }


def test_an_arm_without_pretraining_cost_nothing_before():
    rows = write_tables.rows_of(KEY, RESULT, None)
    assert values(rows, metric="pretrain_seconds") == values(rows, metric="images_seen") == [0.0]
    assert values(rows, metric="knn_accuracy") == []


def test_energy_is_a_row_where_all_of_a_run_was_measured():
    def energies(phases, pretraining) -> dict[str, float]:
        held = {
            name: {**phase, "energy_joules": joules}
            for (name, phase), joules in zip(RESULT["phases"].items(), phases, strict=True)
        }
        rows = write_tables.rows_of(KEY, {**RESULT, "phases": held}, pretraining)
        return {row.metric: row.value for row in rows if row.metric.endswith("joules")}

    measured = {"pretrain_joules": 50.0, "transfer_joules": 7.0}
    assert energies((3.0, 4.0), {**PRETRAINING, "energy_joules": 50.0}) == measured
    assert energies((3.0, 4.0), None) == {**measured, "pretrain_joules": 0.0}
    assert energies((3.0, None), None) == {}
    # A pretraining of an older version.
    assert energies((3.0, 4.0), PRETRAINING) == {}


@pytest.fixture
def metrics(tmp_path):
    lines = [
        {"phase": "head", "epoch": 1, "step": 4, "split": "train", "loss": 1.5, "learning_rate": 1e-3},
        {"phase": "head", "epoch": 1, "step": 4, "split": "validation", "accuracy": 0.5},
        {"phase": "chosen", "split": "test", "accuracy": 0.4},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_curves_are_the_log_in_long_form(metrics):
    lines = write_tables.curves_of(KEY, metrics)
    place = {**KEY, "phase": "head", "epoch": 1, "step": 4}
    assert lines == [
        {**place, "split": "train", "metric": "loss", "value": 1.5},
        {**place, "split": "train", "metric": "learning_rate", "value": 1e-3},
        {**place, "split": "validation", "metric": "accuracy", "value": 0.5},
    ]


def test_tables_round_trip(tmp_path, metrics):
    odd = {**KEY, "arm": 'a,"b"\nc'}
    rows = write_tables.rows_of(KEY, RESULT, PRETRAINING) + write_tables.rows_of(odd, RESULT, None)
    curves = write_tables.curves_of(KEY, metrics)
    write_tables.write(tmp_path, Results(rows, curves=curves))
    results = Results.read(tmp_path)
    assert results.rows == rows
    expected = [{name: str(value) for name, value in line.items()} for line in curves]
    assert results.curve_lines == expected


def test_columns_are_those_of_the_design(tmp_path, metrics):
    rows, curves = write_tables.rows_of(KEY, RESULT, PRETRAINING), write_tables.curves_of(KEY, metrics)
    write_tables.write(tmp_path, Results(rows, curves=curves))
    results = "arm, backbone, labels, seed, phase, split, metric, value"
    summary = (
        "arm, backbone, labels, phase, metric, num_seeds, mean, low, high, baseline, difference, difference_low, "
        "difference_high, p_value, p_value_holm, effect_size, interval_over, num_pairs, num_pretrainings, crossed_low, "
        "crossed_high"
    )
    curves = "arm, backbone, labels, seed, phase, epoch, step, split, metric, value"
    for name, columns in (("results", results), ("summary", summary), ("curves", curves)):
        assert header(tmp_path / f"{name}.csv") == columns.split(", ")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"results\.csv: there is no such table"):
        Results.read(tmp_path)


def test_what_was_right_round_trips(tmp_path):
    """Any number of images, not only eight at a time; and a comparison of runs that kept nothing."""
    cell = ("a,\n", "net", "5", "chosen", "accuracy")
    hits = {cell: {0: np.array([1, 0, 1, 1, 0, 0, 0, 1, 1]), 3: np.ones(9)}, ("b", *cell[1:]): {0: np.zeros(9)}}
    write_tables.write(tmp_path, Results([], hits=hits))
    first = (tmp_path / "test_hits.npz").read_bytes()
    found = Results.read(tmp_path).hits
    assert found.keys() == hits.keys()
    for cell, held in hits.items():
        assert {seed: images.tolist() for seed, images in found[cell].items()} == {
            seed: images.tolist() for seed, images in held.items()
        }
    write_tables.write(tmp_path, Results([], hits=hits))
    assert (tmp_path / "test_hits.npz").read_bytes() == first
    write_tables.write(tmp_path, Results([]))
    assert Results.read(tmp_path).hits == {}
    (tmp_path / "test_hits.npz").unlink()
    assert Results.read(tmp_path).hits == {}
    assert write_tables.hits_of(tmp_path, np.zeros(9)) is None
    np.save(tmp_path / "predicted.npy", np.array([2, 0, 1], dtype=np.int32))
    assert write_tables.hits_of(tmp_path, np.array([2, 1, 1])).tolist() == [1, 0, 1]
