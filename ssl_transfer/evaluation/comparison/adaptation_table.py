"""Tabulate ways to adapt: means over seeds, differences to source-only paired by seed, choices of each criterion."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssl_transfer.evaluation.metric_properties import ACCURACY

from .estimates import Estimate, estimate, paired_difference
from .significance import CONFIDENCE, holm

SOURCE_ONLY, TARGET = "source-only", "target"
"""Ends of the scale: the baseline of all methods, and the upper bound that uses the target's labels."""
ORACLE = "oracle"
"""Criterion that reads the target's validation labels: an upper bound."""
RESULT_COLUMNS = ("method", "seed", "split", "metric", "value")


@dataclass(frozen=True, kw_only=True)
class AdaptedRun:
    """One run of a method."""

    method: str
    seed: int
    result: Mapping[str, Any]
    """Return value of `stages.adapt.adapt`."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """An image in the plane."""

    domain: str
    """source or target."""
    label: str
    """Class name; empty where it is unknown."""
    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method in the table."""

    method: str
    uses_target_labels: bool
    test: Estimate
    """Accuracy on the target's test images."""
    difference: Estimate | None
    """To source-only, paired by seed; None for itself."""
    p_value: float
    """Of the difference, corrected (Holm 1979) for all methods that adapt; nan without a difference."""
    source: Estimate
    """Accuracy on the source's validation images."""
    criteria: Mapping[str, float]
    """Means of the criteria without labels of the target: information, density, importance, a_distance."""
    training: Mapping[str, float]
    """Means over the batches of the chosen epoch: discriminator_accuracy, domain_distance, sure."""
    seconds: float
    """Mean training time."""


def lines_of(runs: Sequence[AdaptedRun]) -> list[Line]:
    """Return a line for each method, in their order; all runs need labelled test images."""
    found = []
    for method in methods_of(runs):
        mine = [run for run in runs if run.method == method]
        difference = paired_difference(_tests(runs, method), _tests(runs, SOURCE_ONLY), within=ACCURACY.limits)
        found.append(
            Line(
                method=method,
                uses_target_labels=bool(mine[0].result["uses_target_labels"]),
                test=estimate(list(_tests(runs, method).values()), within=ACCURACY.limits),
                difference=None if method == SOURCE_ONLY else difference,
                p_value=math.nan,
                source=estimate([run.result["source_validation"]["accuracy"] for run in mine], within=ACCURACY.limits),
                criteria=_means(
                    {name: run.result["after"][name] for name in ("information", "density", "importance", "a_distance")}
                    for run in mine
                ),
                training=_means(run.result["training"] for run in mine),
                seconds=float(np.mean([run.result["seconds"] for run in mine])),
            )
        )
    compared = [line for line in found if line.difference is not None and not line.uses_target_labels]
    corrected = holm([line.difference.p_value for line in compared if line.difference is not None])
    p_values = {line.method: p_value for line, p_value in zip(compared, corrected, strict=True)}
    return [replace(line, p_value=p_values.get(line.method, math.nan)) for line in found]


def choices_of(runs: Sequence[AdaptedRun]) -> dict[str, dict[str, float]]:
    """Return the target's validation accuracy, mean over seeds, of the choice of each criterion, by method.

    Only runs with the oracle measured it.
    """
    return {
        method: _means(
            {name: one["target_accuracy"] for name, one in run.result["criteria"].items() if "target_accuracy" in one}
            for run in runs
            if run.method == method
        )
        for method in methods_of(runs)
    }


def leader(runs: Sequence[AdaptedRun]) -> str:
    """Return the method with the best mean accuracy on the target's test images, without the ends of the scale."""
    lines = [line for line in lines_of(runs) if line.method != SOURCE_ONLY]
    return max(lines, key=lambda line: (not line.uses_target_labels, line.test.mean)).method


def sentence(runs: Sequence[AdaptedRun], title: str) -> str:
    """State which methods are ahead of source-only and behind it, and the upper bound.

    The statement follows corrected p values, as in a comparison: each method is another chance of error.
    """
    lines = {line.method: line for line in lines_of(runs)}
    base = lines[SOURCE_ONLY].test.mean
    groups: dict[str, list[str]] = {"ahead of it": [], "behind it": [], "not told apart from it": []}
    for line in sorted(lines.values(), key=lambda one: -one.test.mean):
        if line.difference is None or line.uses_target_labels:
            continue
        group = "not told apart from it"
        if line.p_value <= 1.0 - CONFIDENCE:
            group = "ahead of it" if line.difference.mean > 0.0 else "behind it"
        points = line.difference.percent("+")
        groups[group].append(f"{line.method} {100 * line.test.mean:.1f} % ({points} points)")
    parts = [f"From {title}, training on the source alone gets {100 * base:.1f} % of the target's test images right"]
    parts += [f"{group}: {', '.join(words)}" for group, words in groups.items() if words]
    if TARGET in lines:
        parts.append(f"training on the target's labels, the upper end, {100 * lines[TARGET].test.mean:.1f} %")
    unsure = bool(groups["not told apart from it"])
    answer = "Yes" if groups["ahead of it"] else "It cannot be told" if unsure else "No"
    return f"{answer}: {'; '.join(parts)}."


def rows_of(runs: Iterable[AdaptedRun]) -> list[tuple[object, ...]]:
    """Return the lines of `results.csv`, of the columns `RESULT_COLUMNS`."""
    rows: list[tuple[object, ...]] = []
    for run in runs:
        result = run.result
        places = {
            "target_test": result["target_test"],
            "source_validation": result["source_validation"],
            "training": result["training"],
            "cost": {name: result[name] for name in ("seconds", "images_seen", "num_parameters", "peak_memory_mb")},
        }
        for split, metrics in places.items():
            rows += [(run.method, run.seed, split, name, value) for name, value in metrics.items()]
        for criterion, one in result["criteria"].items():
            if "target_accuracy" in one:
                chosen = f"target_validation_accuracy_by_{criterion}"
                rows.append((run.method, run.seed, "target_validation", chosen, one["target_accuracy"]))
    return rows


def methods_of(runs: Iterable[AdaptedRun]) -> list[str]:
    """List the methods, in their order."""
    return list(dict.fromkeys(run.method for run in runs))


def _tests(runs: Sequence[AdaptedRun], method: str) -> dict[int, float]:
    return {run.seed: run.result["target_test"]["accuracy"] for run in runs if run.method == method}


def _means(values: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Average each number that all have."""
    results = list(values)
    names = [name for name in results[0] if all(name in one for one in results)] if results else []
    return {name: float(np.mean([one[name] for one in results])) for name in names}
