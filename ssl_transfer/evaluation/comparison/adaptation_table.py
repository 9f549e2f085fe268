"""Runs of several ways to adapt as a table: means, differences to source-only paired by seed, and what chose."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .estimates import SHARE, Estimate, estimate, paired_difference
from .significance import CONFIDENCE, holm

SOURCE_ONLY, TARGET = "source-only", "target"
"""The ends of the scale: what all are held against, and the upper bound that uses the target's labels."""
ORACLE = "oracle"
"""Among the criteria the one that reads the target's validation labels: an upper bound."""
RESULT_COLUMNS = ("method", "seed", "split", "metric", "value")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a method: what `stages.adapt.adapt` returned."""

    method: str
    seed: int
    result: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Point:
    """An image in the plane."""

    domain: str
    """source or target."""
    label: str
    """The name of its class; empty without one."""
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
    """Of the difference, corrected (Holm 1979) for all methods that adapt; nan where there is none."""
    source: Estimate
    """Accuracy on the source's validation images."""
    told: Mapping[str, float]
    """Means of what was measured without labels of the target: information, density, importance, a_distance."""
    training: Mapping[str, float]
    """Means of what the chosen epoch's batches told: discriminator_accuracy, domain_distance, sure."""
    seconds: float
    """Mean, of training."""


def lines_of(runs: Sequence[Run]) -> list[Line]:
    """A line for each method, in the order in which they come. Runs without labelled test images are an error."""
    found = []
    for method in methods_of(runs):
        mine = [run for run in runs if run.method == method]
        difference = paired_difference(_tests(runs, method), _tests(runs, SOURCE_ONLY), within=SHARE)
        found.append(
            Line(
                method=method,
                uses_target_labels=bool(mine[0].result["uses_target_labels"]),
                test=estimate(list(_tests(runs, method).values()), within=SHARE),
                difference=None if method == SOURCE_ONLY else difference,
                p_value=math.nan,
                source=estimate([run.result["source_validation"]["accuracy"] for run in mine], within=SHARE),
                told=_means(
                    {name: run.result["after"][name] for name in ("information", "density", "importance", "a_distance")}
                    for run in mine
                ),
                training=_means(run.result["training"] for run in mine),
                seconds=float(np.mean([run.result["seconds"] for run in mine])),
            )
        )
    compared = [line for line in found if line.difference is not None and not line.uses_target_labels]
    corrected = holm([line.difference.p_value for line in compared if line.difference is not None])
    held = {line.method: p_value for line, p_value in zip(compared, corrected, strict=True)}
    return [replace(line, p_value=held.get(line.method, math.nan)) for line in found]


def choices_of(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """By method and criterion the target's validation accuracy of what it would have chosen, the mean over seeds.

    Of runs with the oracle alone, which has measured it.
    """
    return {
        method: _means(
            {name: one["target_accuracy"] for name, one in run.result["criteria"].items() if "target_accuracy" in one}
            for run in runs
            if run.method == method
        )
        for method in methods_of(runs)
    }


def leader(runs: Sequence[Run]) -> str:
    """The method that adapts best by the mean on the target's test images; neither end of the scale."""
    lines = [line for line in lines_of(runs) if line.method != SOURCE_ONLY]
    return max(lines, key=lambda line: (not line.uses_target_labels, line.test.mean)).method


def sentence(runs: Sequence[Run], title: str) -> str:
    """What came out, in words: those ahead of source-only, those behind it, and the upper end.

    The words go by corrected p values, as in a comparison: each method is another chance to be wrong.
    """
    lines = {line.method: line for line in lines_of(runs)}
    base = lines[SOURCE_ONLY].test.mean
    groups: dict[str, list[str]] = {"ahead of it": [], "behind it": [], "not told apart from it": []}
    for line in sorted(lines.values(), key=lambda one: -one.test.mean):
        if line.difference is None or line.uses_target_labels:
            continue
        told = line.p_value <= 1.0 - CONFIDENCE
        group = ("ahead of it" if line.difference.mean > 0.0 else "behind it") if told else "not told apart from it"
        points = line.difference.percent("+")
        groups[group].append(f"{line.method} {100 * line.test.mean:.1f} % ({points} points)")
    parts = [f"From {title}, training on the source alone gets {100 * base:.1f} % of the target's test images right"]
    parts += [f"{group}: {', '.join(words)}" for group, words in groups.items() if words]
    if TARGET in lines:
        parts.append(f"training on the target's labels, the upper end, {100 * lines[TARGET].test.mean:.1f} %")
    unsure = bool(groups["not told apart from it"])
    answer = "Yes" if groups["ahead of it"] else "It cannot be told" if unsure else "No"
    return f"{answer}: {'; '.join(parts)}."


def rows_of(runs: Iterable[Run]) -> list[tuple[object, ...]]:
    """`results.csv`: a line a number, columns as `RESULT_COLUMNS`."""
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


def methods_of(runs: Iterable[Run]) -> list[str]:
    """The methods, in the order in which they come."""
    return list(dict.fromkeys(run.method for run in runs))


def _tests(runs: Sequence[Run], method: str) -> dict[int, float]:
    return {run.seed: run.result["target_test"]["accuracy"] for run in runs if run.method == method}


def _means(values: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number that all have."""
    held = list(values)
    names = [name for name in held[0] if all(name in one for one in held)] if held else []
    return {name: float(np.mean([one[name] for one in held])) for name in names}
