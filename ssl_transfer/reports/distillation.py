"""Draw the report of the distillation demo: a table of its arms with intervals, a picture, one sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.redaction import redacted
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.curves import mean_curve
from ssl_transfer.evaluation.comparison.estimates import Estimate, estimate, paired_difference
from ssl_transfer.evaluation.comparison.label_budgets import budget_title
from ssl_transfer.evaluation.comparison.results import Results
from ssl_transfer.evaluation.comparison.significance import CONFIDENCE, holm
from ssl_transfer.evaluation.metric_properties import ACCURACY

from . import figures, markdown
from .evaluation import write_picture

PICTURE = "distillation.png"
COLUMNS = (
    *("arm", "num_seeds", "mean", "low", "high", "difference", "difference_low", "difference_high", "p_value"),
    *("num_parameters", "images_per_second"),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One arm."""

    arm: str
    accuracy: Estimate
    difference: Estimate | None
    """To the first arm, paired by seed; None of that arm itself."""
    num_parameters: int
    """Of the backbone."""
    images_per_second: float


def lines_of(results: Results, speeds: Mapping[str, float], arms: Sequence[str]) -> list[Line]:
    """Return the lines of the table: the others are compared with the first arm, and the last one is the teacher.

    Args:
        results: of all runs.
        speeds: images per second of `student` and `teacher`.
        arms: in the order of the table.
    """
    values: dict[str, dict[int, float]] = {arm: {} for arm in arms}
    sizes: dict[str, int] = {}
    for row in results.rows:
        if (row.phase, row.split, row.metric) == ("chosen", "test", "accuracy"):
            values[row.arm][row.seed] = row.value
        if row.metric == "num_parameters":
            sizes[row.arm] = int(row.value)
    first, *_, teacher = arms
    nested = {arm: None if arm == first else results.pretrainings(arm) for arm in arms}
    return [
        Line(
            arm=arm,
            accuracy=estimate(
                list(values[arm].values()),
                within=ACCURACY.limits,
                pretrainings=None if (by_seed := nested[arm]) is None else [by_seed[seed] for seed in values[arm]],
            ),
            difference=None
            if arm == first
            else paired_difference(values[arm], values[first], within=ACCURACY.limits, pretrainings=nested[arm]),
            num_parameters=sizes[arm],
            images_per_second=speeds["teacher" if arm == teacher else "student"],
        )
        for arm in arms
    ]


def write(
    folder: Path,
    results: Results,
    speeds: Mapping[str, float],
    *,
    arms: Sequence[str],
    facts: Mapping[str, Any],
) -> None:
    """Write `results.csv`, `curves.csv`, `summary.csv`, the picture and `report.md`.

    Args:
        folder: of the demo.
        results: see `lines_of`.
        speeds: see `lines_of`.
        arms: see `lines_of`.
        facts: data, labels, counts and the model's folder, for the text around the table.
    """
    lines = lines_of(results, speeds, arms)
    write_tables.write_lines(
        folder / "results.csv", write_tables.RESULT_COLUMNS, (list(asdict(row).values()) for row in results.rows)
    )
    write_tables.write_lines(
        folder / "curves.csv",
        write_tables.CURVE_COLUMNS,
        ([line[name] for name in write_tables.CURVE_COLUMNS] for line in results.curve_lines),
    )
    write_tables.write_lines(folder / "summary.csv", COLUMNS, map(_columns, lines))
    write_picture(folder / PICTURE, draw(lines, results))
    write_text(folder / "report.md", redacted(_page(lines, facts)))


def _columns(line: Line) -> list[object]:
    own, other = line.accuracy, line.difference
    compared = ("", "", "", "") if other is None else (other.mean, other.low, other.high, other.p_value)
    return [line.arm, own.count, own.mean, own.low, own.high, *compared, line.num_parameters, line.images_per_second]


def draw(lines: Sequence[Line], results: Results) -> bytes:
    """Draw accuracy over speed (left) and the learning curves of the students (right)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    found = results.curves.of_runs(split="validation", metric="accuracy")
    for number, line in enumerate(lines):
        colour, marker = figures.COLOURS[number], figures.MARKERS[number]
        own = line.accuracy
        style = {"color": colour, "marker": marker, "label": line.arm}
        # Students are equally fast: side by side, so that their intervals can be read.
        place = line.images_per_second * (1.0 + 0.04 * number if line is not lines[-1] else 1.0)
        left.errorbar(place, own.mean, yerr=np.array(own.reach)[:, None], capsize=3, linestyle="", **style)
        if line is not lines[-1]:
            mean = mean_curve(curve for run, curve in found.items() if run[0] == line.arm)
            right.plot(mean.steps, mean.values, color=colour, label=line.arm)
    left.set(xlabel="images per second", ylabel="test accuracy", xscale="log")
    left.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    # Within a decade no power of ten may be shown.
    left.set_xticks(sorted({round(line.images_per_second, -2) for line in lines}))
    left.xaxis.set_minor_formatter(NullFormatter())
    right.set(xlabel="optimiser steps", ylabel="validation accuracy, mean over seeds")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figures.png(figure)


def _page(lines: Sequence[Line], facts: Mapping[str, Any]) -> str:
    first, *_, teacher = lines
    smaller = teacher.num_parameters / first.num_parameters
    faster = first.images_per_second / teacher.images_per_second
    seeds = f"{facts['num_seeds']} seed{'s' if facts['num_seeds'] > 1 else ''}"
    coverage = "over pretrainings" if facts["pretrain_seeds"] > 1 else "over seeds, for this one pretrained teacher"
    again = f"ssl-transfer evaluate {facts['model']}"
    table = [
        "| arm | test accuracy | to the student alone | parameters | images per second |",
        "|---|---|---|---|---|",
        *(
            f"| {markdown.escaped(line.arm)} | {line.accuracy.percent()} | "
            f"{'' if line.difference is None else line.difference.percent('+')} | {line.num_parameters:,} | "
            f"{line.images_per_second:,.0f} |"
            for line in lines
        ),
    ]
    return "\n".join(
        [
            "# Does a small model gain by a teacher?",
            "",
            f"> {markdown.escaped(_sentence(lines))}",
            "",
            f"The student has {smaller:.1f} times fewer parameters than the teacher and is {faster:.1f} times as fast.",
            "",
            *table,
            "",
            f"![Accuracy over speed, and learning curves]({PICTURE})",
            "",
            f"Percent, mean over {seeds} with 95 % intervals (Student's t) {coverage}; differences are paired by seed, "
            f"which draws the labelled images of all arms. {budget_title(facts['labels'], 'label')}: "
            f"{facts['num_train']} images to train on and {facts['num_validation']} for choosing; the pool has "
            f"{facts['num_pool']} images, {facts['num_test']} are tested on, once. The teacher was pretrained with "
            f"SimCLR on the pool ({counted(facts['pretrain_seeds'], 'pretraining')}) and fine-tuned on the labelled "
            "images. Images per second: classified in batches of 256 on this machine, without a GPU on one core.",
            "",
            f"    {facts['data']}".replace("\n", "\n    "),
            "",
            f"The students that learnt on the pool can be used as any run: {markdown.code(again)}.",
            "",
        ]
    )


def _sentence(lines: Sequence[Line]) -> str:
    """State the verdict of each distilled arm, by p values corrected for their number (Holm 1979)."""
    parts, distilled = [], lines[1:-1]
    corrected = holm([math.nan if line.difference is None else line.difference.p_value for line in distilled])
    for line, p_value in zip(distilled, corrected, strict=True):
        found, significant = line.difference, p_value <= 1.0 - CONFIDENCE
        if found is None or not found.over:
            parts.append(f"{line.arm}, not known (one seed, or all seeds agree)")
        elif significant and found.mean > 0.0:
            parts.append(f"{line.arm}, yes ({found.percent('+')} points)")
        elif significant:
            parts.append(f"{line.arm}, it loses ({found.percent('+')} points)")
        else:
            parts.append(f"{line.arm}, not told apart ({found.percent('+')} points)")
    return f"{'; '.join(parts)}."
