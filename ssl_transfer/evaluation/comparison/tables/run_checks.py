"""Refuse a run whose result holds a non-finite or impossible number, before any table of a comparison is written."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.errors import InputError
from ssl_transfer.evaluation.metric_properties import POSITIVE, Metric, metric_named

_RESULT, _LOG = "result.json", "metrics.jsonl"
_COSTS = ("seconds", "images_seen", "num_parameters", "peak_memory_mb")
_UNMEASURED = ("a_distance",)
"""nan where there are too few images."""
_ENERGY = "energy_joules"
"""None without a sensor."""

Number = tuple[str, str, object]
"""(place in the result, metric, value)."""


def repeated(folder: Path) -> str:
    """Return the sentence that repeats one run."""
    return f"The same command with --retry moves {folder} aside and repeats the run."


def check_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Check the numbers of a transfer or distillation run that reach the tables.

    Args:
        folder: of the run.
        result: of the run.

    Raises:
        InputError: a number is missing, not finite or outside the limits of its metric; the message names the folder.
    """
    remedy = repeated(folder)
    _check(folder / _RESULT, lambda: _transfer_numbers(result), remedy)
    for name in ("num_train", "num_validation"):
        if not _is_count(result.get(name)) or not result[name]:
            problem = f"{name} is {result.get(name)}, but must be a whole number, 1 or more"
            raise InputError(f"{folder / _RESULT}: {problem}. {remedy}")


def check_pretraining(folder: Path, result: Mapping[str, Any], *, is_arm: bool = False) -> None:
    """Check the numbers of a pretraining that reach the tables; errors as `check_result`.

    Args:
        folder: of the run.
        result: of the run.
        is_arm: the run is an arm of the comparison, which does not repeat it.
    """
    remedy = "Repeat that run with --fresh, or leave this arm out." if is_arm else repeated(folder)
    _check(folder / _RESULT, lambda: _pretraining_numbers(result), remedy)


def check_adaptation(folder: Path, result: Mapping[str, Any]) -> None:
    """Check the numbers of an adaptation that reach the tables; errors as `check_result`."""
    _check(folder / _RESULT, lambda: _adaptation_numbers(result), repeated(folder))


def check_curves(folder: Path, lines: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Drop the non-finite measurements of one run's learning curves.

    A model may have a non-finite validation loss during training and recover: its result is finite.

    Args:
        folder: of the run.
        lines: of `curves.csv`.

    Returns:
        The other lines, and a warning where there are dropped ones.

    Raises:
        InputError: a line has no step, or a finite number is outside the limits of its metric.
    """
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    for line in lines:
        is_finite = not isinstance(line["value"], float) or math.isfinite(line["value"])
        (kept if is_finite else dropped).append(line)
    for line in kept:
        problem = metric_named(line["metric"]).problem(line["value"])
        what = f"{line['metric']} of phase {line['phase']!r}, step {line['step']}, split {line['split']!r}"
        if problem:
            raise InputError(f"{folder / _LOG}: {what} is {line['value']}, but {problem}. {repeated(folder)}")
        if not (line["phase"] and line["split"] and _is_count(line["epoch"]) and _is_count(line["step"])):
            raise InputError(f"{folder / _LOG}: {what}: phase, epoch, step and split must be there. {repeated(folder)}")
    if not dropped:
        return kept, []
    first = dropped[0]
    return kept, [
        f"{folder / _LOG}: {counted(len(dropped), 'non-finite measurement')} left out of the learning curves; the "
        f"first: {first['metric']} of phase {first['phase']}, step {first['step']}, split {first['split']}."
    ]


def _check(path: Path, numbers: Any, remedy: str) -> None:
    """Check numbers, made by a function that fails where the result lacks one."""
    try:
        for place, metric, value in numbers():
            if problem := _property(metric).problem(value):
                raise InputError(f"{path}: {place} is {value}, but {problem}. {remedy}")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: lacks a number that the tables need ({error!r}). {remedy}") from error


def _property(metric: str) -> Metric:
    """Look up the metric; energy has another name in a table than in a result."""
    return Metric(name=metric, limits=POSITIVE) if metric == _ENERGY else metric_named(metric)


def _transfer_numbers(result: Mapping[str, Any]) -> Iterator[Number]:
    phases = result["phases"]
    yield "chosen phase: test.accuracy", "accuracy", phases[result["chosen"]]["test"]["accuracy"]
    yield "chosen phase: validation.accuracy", "accuracy", phases[result["chosen"]]["validation"]["accuracy"]
    yield "num_parameters", "num_parameters", result["num_parameters"]
    for phase, found in phases.items():
        for split in ("validation", "test"):
            yield from _named(f"phases.{phase}.{split}", found[split])
        yield from _costs(f"phases.{phase}.", found)
    if "tuned" in result:
        for number, trial in enumerate(result["tuned"]["trials"]):
            if "diverged" not in trial:
                yield from _costs(f"tuned.trials.{number}.", trial)
        chosen = result["tuned"]["trials"][result["tuned"]["chosen"]]
        yield from _named("tuned, chosen: learning_rates", chosen["learning_rates"])
        yield "tuned, chosen: weight_decay", "chosen_weight_decay", chosen["weight_decay"]


def _pretraining_numbers(result: Mapping[str, Any]) -> Iterator[Number]:
    yield from _costs("", result)
    yield "images_seen", "images_seen", result["images_seen"]
    if "knn_accuracy" in result:
        yield "knn_accuracy", "knn_accuracy", result["knn_accuracy"]


def _adaptation_numbers(result: Mapping[str, Any]) -> Iterator[Number]:
    for place in ("target_test", "source_validation", "after", "training"):
        yield from _named(place, result[place])
    for criterion, one in result["criteria"].items():
        if "target_accuracy" in one:
            yield f"criteria.{criterion}.target_accuracy", "accuracy", one["target_accuracy"]
    for name in _COSTS:
        yield name, name, result[name]


def _named(place: str, numbers: Mapping[str, Any]) -> Iterable[Number]:
    return [
        (f"{place}.{name}", name, value)
        for name, value in numbers.items()
        if not (name in _UNMEASURED and isinstance(value, float) and math.isnan(value))
    ]


def _costs(place: str, found: Mapping[str, Any]) -> Iterator[Number]:
    for name in ("seconds", "peak_memory_mb"):
        yield f"{place}{name}", name, found[name]
    if found.get(_ENERGY) is not None:
        yield f"{place}{_ENERGY}", _ENERGY, found[_ENERGY]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
