"""Draw the report of several ways to adapt: a table, choices of the criteria, feature maps before and after."""

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from rich.table import Table

from ssl_transfer.engine.console.formatting import console, words
from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.printable import one_line
from ssl_transfer.engine.terminal import say
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.adaptation_table import (
    ORACLE,
    RESULT_COLUMNS,
    SOURCE_ONLY,
    AdaptedRun,
    Line,
    Point,
    choices_of,
    lines_of,
    rows_of,
    sentence,
)

from .evaluation import write_picture
from .figures import COLOURS, MARKERS, png
from .rendering import TEMPLATES

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_HEADINGS = ("method", "target test", "difference to source-only", "source validation", "A-distance", "seconds")
_MOST_COLOURS = 20


def write(
    folder: Path,
    runs: Sequence[AdaptedRun],
    maps: Mapping[str, Sequence[Point]],
    *,
    title: str,
    backbone: str,
    labels: str,
    choose: str,
    failures: Sequence[Mapping[str, Any]],
) -> None:
    """Write `results.csv`, the pictures, `report.md` and `report.html`.

    Args:
        folder: of the files.
        runs: with source-only.
        maps: feature maps of both domains by method, in the order of the picture.
        title: source and target.
        backbone: name.
        labels: budget of the source.
        choose: criterion that chose.
        failures: as `grid.failures_of` returns them.
    """
    write_tables.write_lines(folder / "results.csv", RESULT_COLUMNS, rows_of(runs))
    pictures = {"accuracy": _accuracies(runs)}
    if any(maps.values()):
        pictures["features"] = _features(maps)
    for name, picture in pictures.items():
        write_picture(folder / f"{name}.png", picture)
    lines, choices = lines_of(runs), choices_of(runs)
    criteria = list(dict.fromkeys(name for one in choices.values() for name in one))
    content = {
        "title": title,
        "sentence": sentence(runs, title),
        "backbone": backbone,
        "labels": labels,
        "choose": choose,
        "num_seeds": len({run.seed for run in runs}),
        "headings": _HEADINGS,
        "lines": [_cells(line) for line in lines],
        "told": [_criteria_cells(line) for line in lines],
        "criteria": [f"{name} (upper bound)" if name == ORACLE else name for name in criteria],
        "choices": [
            [method, *(f"{100 * found[name]:.1f}" if name in found else "" for name in criteria)]
            for method, found in choices.items()
        ],
        "maps": list(maps),
        "failures": failures,
        "pictures": {name: base64.b64encode(picture).decode() for name, picture in pictures.items()},
    }
    for name in ("md", "html"):
        write_text(folder / f"report.{name}", TEMPLATES.get_template(f"adaptation.{name}.jinja").render(content))


def show(folder: Path, runs: Sequence[AdaptedRun], *, title: str) -> None:
    """Print the table, the sentence and the path of the report."""
    table = Table(title="Accuracy in percent [95 % interval over seeds]")
    for heading in _HEADINGS:
        table.add_column(heading)
    for line in lines_of(runs):
        table.add_row(*map(words, _cells(line)))
    console().print(table)
    say(sentence(runs, title))
    say(f"report: {folder / 'report.html'}")


def _cells(line: Line) -> list[str]:
    marked = " (upper bound)" if line.uses_target_labels else ""
    return [
        f"{line.method}{marked}",
        line.test.percent(),
        "" if line.difference is None else line.difference.percent("+"),
        # Training on the target sees no image of the source: its validation images are the target's.
        "" if line.uses_target_labels else line.source.percent(),
        "" if line.uses_target_labels else _distance(line.criteria["a_distance"]),
        f"{line.seconds:.0f}",
    ]


def _distance(value: float) -> str:
    """Format the proxy A-distance; a dash where there are too few images to measure it."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def _criteria_cells(line: Line) -> list[str]:
    accuracy = line.training.get("discriminator_accuracy")
    numbers = [f"{line.criteria[name]:.2f}" for name in ("information", "density", "importance")]
    return [line.method, *numbers, "" if accuracy is None else f"{100 * accuracy:.0f}"]


def _accuracies(runs: Sequence[AdaptedRun]) -> bytes:
    """Draw the test accuracy of each method: every seed, the mean and its interval, and both ends of the scale."""
    lines = lines_of(runs)
    figure, axes = plt.subplots(figsize=(7.5, 0.42 * len(lines) + 1.1), layout="constrained")
    for place, line in enumerate(reversed(lines)):
        colour = COLOURS[0] if line.method == SOURCE_ONLY else COLOURS[7] if line.uses_target_labels else COLOURS[2]
        values = [100 * run.result["target_test"]["accuracy"] for run in runs if run.method == line.method]
        axes.plot(values, [place] * len(values), ".", color=colour, alpha=0.45, markersize=7)
        if line.test.over:
            axes.plot([100 * line.test.low, 100 * line.test.high], [place, place], color=colour, linewidth=2)
        axes.plot([100 * line.test.mean], [place], "o", color=colour, markersize=7)
    for end in (line for line in lines if line.method == SOURCE_ONLY or line.uses_target_labels):
        axes.axvline(100 * end.test.mean, color="#BBBBBB", linewidth=1, linestyle="--", zorder=0)
    axes.set_yticks(range(len(lines)), [line.method for line in reversed(lines)])
    axes.set_xlabel("target test accuracy (%); dots: seeds, bars: 95 % intervals of the mean")
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _features(maps: Mapping[str, Sequence[Point]]) -> bytes:
    """Draw features of validation images of both domains: the mark shows the domain, the colour the class."""
    figure, panels = plt.subplots(1, len(maps), figsize=(4.2 * len(maps) + 1.3, 4.4), squeeze=False)
    classes = sorted({point.label for points in maps.values() for point in points if point.label})
    colours = plt.get_cmap("tab10" if len(classes) <= 10 else "tab20")
    for axes, (name, points) in zip(panels[0], maps.items(), strict=True):
        axes.set(xticks=[], yticks=[], xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), aspect="equal")
        axes.set_title(name)
        axes.spines[:].set_color("#BBBBBB")
        for domain, mark, filled in (("source", "o", False), ("target", MARKERS[4], True)):
            for number, label in enumerate(["", *classes]):
                own = [(point.x, point.y) for point in points if (point.domain, point.label) == (domain, label)]
                if own:
                    known = label and number <= _MOST_COLOURS
                    colour = colours((number - 1) % colours.N) if known else "#AAAAAA"
                    axes.scatter(
                        *zip(*own, strict=True),
                        marker=mark,
                        s=22,
                        linewidths=0.9 if not filled else 0.3,
                        facecolors=colour if filled else "none",
                        edgecolors="white" if filled else colour,
                    )
    handles = [
        plt.Line2D([], [], linestyle="", marker="o", markerfacecolor="none", color="#444444", label="source"),
        plt.Line2D([], [], linestyle="", marker=MARKERS[4], color="#444444", label="target"),
        *(
            plt.Line2D([], [], linestyle="", marker="s", color=colours(number % colours.N), label=label)
            # A dollar would begin a formula.
            for number, label in enumerate(one_line(name).replace("$", r"\$") for name in classes[:_MOST_COLOURS])
        ),
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=8)
    figure.set_layout_engine("constrained")
    return png(figure)
