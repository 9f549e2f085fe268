"""Results of runs with non-finite or impossible numbers: refused with the folder, the metric and the value."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_transfer.engine.errors import InputError
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.tables import run_checks

PHASE = {
    "validation": {"accuracy": 0.5, "log_loss": 1.5},
    "test": {"accuracy": 0.4, "log_loss": 1.7},
    "seconds": 2.0,
    "peak_memory_mb": 100.0,
    "energy_joules": None,
}
RESULT = {"chosen": "head", "num_train": 5, "num_validation": 5, "num_parameters": 1000, "phases": {"head": PHASE}}
TRIAL = {"learning_rates": {"head": 0.1}, "weight_decay": 0.01, "seconds": 2.0, "peak_memory_mb": 100.0}
TUNED = {**RESULT, "tuned": {"chosen": 1, "trials": [{"diverged": "not finite"}, {**TRIAL, "energy_joules": 3.0}]}}
PRETRAINING = {"seconds": 60.0, "images_seen": 5000, "peak_memory_mb": 200.0, "knn_accuracy": 0.7}
ADAPTATION = {
    "target_test": {"accuracy": 0.4},
    "source_validation": {"accuracy": 0.5, "a_distance": math.nan},
    "after": {"information": 0.5, "a_distance": math.nan},
    "training": {"sure": 0.5},
    "criteria": {"source": {"target_accuracy": 0.5}, "density": {"value": 1.0}},
} | {"seconds": 1.0, "images_seen": 10, "num_parameters": 5, "peak_memory_mb": 1.0}
KEY = {"arm": "simclr", "backbone": "net", "labels": "5", "seed": 1}


def changed(result: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    """Copy a result with another value at a dotted place; the value `del` deletes it."""
    found = copy.deepcopy(result)
    *outer, last = (int(name) if name.isdigit() else name for name in place.split("."))
    holder: Any = found
    for name in outer:
        holder = holder[name]
    if value == "del":
        del holder[last]
    else:
        holder[last] = value
    return found


def test_possible_results_pass(tmp_path):
    for result in (RESULT, TUNED, changed(RESULT, "phases.head.validation.accuracy", 1.0 + 1e-12)):
        run_checks.check_result(tmp_path, result)
    run_checks.check_pretraining(tmp_path, PRETRAINING)
    run_checks.check_pretraining(tmp_path, {**PRETRAINING, "energy_joules": None})
    run_checks.check_adaptation(tmp_path, ADAPTATION)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("phases.head.test.accuracy", math.nan, "accuracy is nan, but must be a finite number"),
        ("phases.head.test.accuracy", math.inf, "accuracy is inf, but must be a finite number"),
        ("phases.head.test.accuracy", 97.5, "accuracy is 97.5, but must be within 0 and 1"),
        ("phases.head.test.accuracy", "0.5", "accuracy is 0.5, but must be a finite number"),
        ("phases.head.validation.log_loss", -math.inf, "phases.head.validation.log_loss is -inf"),
        ("phases.head.seconds", -1.0, "phases.head.seconds is -1.0, but must be 0 or more"),
        ("phases.head.peak_memory_mb", math.nan, "phases.head.peak_memory_mb is nan"),
        ("phases.head.energy_joules", math.nan, "phases.head.energy_joules is nan"),
        ("tuned.trials.1.weight_decay", math.nan, "weight_decay is nan"),
        ("tuned.trials.1.seconds", 10**400, "must be a finite number"),
        ("num_train", 0, "num_train is 0, but must be a whole number, 1 or more"),
        ("num_parameters", True, "num_parameters is True"),
        ("chosen", "finetune", "lacks a number that the tables need (KeyError('finetune'))"),
        ("phases", "del", "lacks a number that the tables need (KeyError('phases'))"),
        ("phases", [], "lacks a number that the tables need"),
    ],
)
def test_impossible_results_are_refused(tmp_path, place, value, words):
    folder = tmp_path / "a run"
    folder.mkdir()
    with pytest.raises(InputError) as caught:
        run_checks.check_result(folder, changed(TUNED, place, value))
    said = str(caught.value)
    assert f"{folder / 'result.json'}: " in said
    assert words in said
    assert f"The same command with --retry moves {folder} aside and repeats the run." in said


@pytest.mark.parametrize("place", PRETRAINING)
def test_impossible_pretrainings_are_refused(tmp_path, place):
    with pytest.raises(
        InputError, match=rf"{place} is nan, but must be a finite number\. The same command with --retry"
    ):
        run_checks.check_pretraining(tmp_path, changed(PRETRAINING, place, math.nan))
    with pytest.raises(InputError, match=r"Repeat that run with --fresh, or leave this arm out\."):
        run_checks.check_pretraining(tmp_path, changed(PRETRAINING, place, -1), is_arm=True)


@pytest.mark.parametrize(
    "place",
    ["target_test.accuracy", "training.sure", "criteria.source.target_accuracy", "seconds", "after.information"],
)
def test_impossible_adaptations_are_refused(tmp_path, place):
    with pytest.raises(InputError, match="but must be a finite number") as caught:
        run_checks.check_adaptation(tmp_path, changed(ADAPTATION, place, math.inf))
    assert f"{tmp_path / 'result.json'}: {place} is inf" in str(caught.value)


def line(**given: object) -> dict[str, Any]:
    place = {**KEY, "phase": "head", "epoch": 1, "step": 4, "split": "validation"}
    return {**place, "metric": "accuracy", "value": 0.5, **given}


def test_non_finite_measurements_are_left_out_of_curves_with_a_warning(tmp_path):
    """A loss may overflow in an evaluation and be finite again in the next one."""
    lines = [line(), line(metric="log_loss", value=math.inf), line(metric="log_loss", value=math.nan)]
    kept, (warning,) = run_checks.check_curves(tmp_path, lines)
    assert kept == lines[:1]
    assert f"{tmp_path / 'metrics.jsonl'}: 2 non-finite measurements left out" in warning
    assert "log_loss of phase head, step 4, split validation" in warning
    assert run_checks.check_curves(tmp_path, kept) == (kept, [])


@pytest.mark.parametrize("given", [{"value": 97.5}, {"value": None}, {"step": ""}, {"phase": ""}, {"epoch": -1}])
def test_impossible_measurements_are_refused(tmp_path, given):
    with pytest.raises(InputError, match=r"metrics\.jsonl: accuracy of phase .* The same command with --retry"):
        run_checks.check_curves(tmp_path, [line(**given)])


@pytest.mark.parametrize(
    ("predicted", "words"),
    [
        ([0, 1], "must hold one whole number for each of 3 test images"),
        ([0.0, 1.0, 1.0], "holds float64 of shape (3,)"),
        ([0, 1, 2], "predicts class 2, but there are 2 classes"),
        ([0, 1, -1], "predicts class -1"),
    ],
)
def test_impossible_predictions_are_refused(tmp_path: Path, predicted, words):
    np.save(tmp_path / write_tables.PREDICTED, np.array(predicted))
    with pytest.raises(InputError) as caught:
        write_tables.hits_of(tmp_path, np.array([0, 1, 1]), num_classes=2)
    assert f"{tmp_path / write_tables.PREDICTED}: " in str(caught.value)
    assert words in str(caught.value)
    assert "The same command with --retry" in str(caught.value)
