"""The report's pictures, drawn from the tables. Each comes back as the bytes of a PNG."""

import io
import math
from collections import defaultdict
from collections.abc import Sequence

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from ..evaluation.statistics import Row, budget_title, by_cell, estimate

# Okabe and Ito's colours, told apart with every common kind of colour blindness; markers differ besides.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F")
MARKERS = "osD^vPX*"
PHASES = ("head", "finetune")
Pair = tuple[str, str]
"""(arm, backbone)."""


def pairs_of(rows: Sequence[Row]) -> list[Pair]:
    """Arms with their backbones, in the order of the table."""
    return list(dict.fromkeys((row.arm, row.backbone) for row in rows))


def names_of(pairs: Sequence[Pair]) -> dict[Pair, str]:
    """What each pair is called: the backbone is named where an arm runs on several."""
    counts = defaultdict(set)
    for arm, backbone in pairs:
        counts[arm].add(backbone)
    return {(arm, backbone): f"{arm} ({backbone})" if len(counts[arm]) > 1 else arm for arm, backbone in pairs}


def label_efficiency(rows: Sequence[Row]) -> bytes:
    """Test accuracy over the label budgets, with 95 % bands."""
    pairs, cells = pairs_of(rows), by_cell(rows, split="test")
    names, budgets = names_of(pairs), list(dict.fromkeys(row.labels for row in rows))
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    places = np.arange(len(budgets))
    floor = 1.0
    for index, pair in enumerate(pairs):
        found = [estimate(list(cells[(*pair, labels, "chosen", "accuracy")].values())) for labels in budgets]
        # Points of one budget stand side by side, so that their intervals can be read.
        offset = (index - (len(pairs) - 1) / 2) * 0.06
        means = np.array([item.mean for item in found])
        spread = np.array([0.0 if math.isinf(item.low) else item.mean - item.low for item in found])
        floor = min(floor, float((means - spread).min()))
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        dash = "--" if pair[0] == "scratch" else "-"
        axes.errorbar(
            places + offset,
            means,
            yerr=spread,
            label=names[pair],
            linestyle=dash,
            capsize=3,
            color=colour,
            marker=marker,
        )
    axes.set_xticks(places, ["all" if budget == "all" else budget_title(budget) for budget in budgets])
    axes.set_ylim(max(0.0, floor - 0.03), 1.0)
    axes.set(xlabel="labelled images", ylabel="test accuracy")
    _finish(axes)
    return _png(figure)


def learning_curves(curves: Sequence[dict[str, str]], rows: Sequence[Row]) -> bytes:
    """Validation accuracy over both phases, the mean over seeds, one panel a budget; unfreezing is marked."""
    pairs, budgets = pairs_of(rows), list(dict.fromkeys(row.labels for row in rows))
    names = names_of(pairs)
    # (arm, backbone, labels, phase) -> step -> values of the seeds
    points: dict[tuple[str, ...], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    last: dict[tuple[str, str], int] = defaultdict(int)
    for line in curves:
        step = int(line["step"])
        last[line["labels"], line["phase"]] = max(last[line["labels"], line["phase"]], step)
        if line["split"] == "validation" and line["metric"] == "accuracy":
            key = (line["arm"], line["backbone"], line["labels"], line["phase"])
            points[key][step].append(float(line["value"]))
    figure, panels = plt.subplots(
        1, len(budgets), figsize=(3.4 * len(budgets) + 1.2, 3.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, labels in zip(panels[0], budgets, strict=True):
        unfrozen = last[labels, "head"]
        for index, pair in enumerate(pairs):
            steps: list[int] = []
            means: list[float] = []
            for phase in PHASES:
                found = points[(*pair, labels, phase)]
                steps += [step + (unfrozen if phase == "finetune" else 0) for step in sorted(found)]
                means += [float(np.mean(found[step])) for step in sorted(found)]
            dash = "--" if pair[0] == "scratch" else "-"
            axes.plot(steps, means, dash, color=COLOURS[index % len(COLOURS)], label=names[pair])
        axes.axvline(unfrozen, color="#7F7F7F", linewidth=1, linestyle=":")
        axes.annotate("unfrozen", (unfrozen, 0.02), xycoords=("data", "axes fraction"), fontsize=8, color="#555555")
        axes.set(title=budget_title(labels, "labels "), xlabel="optimiser steps")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("validation accuracy, mean over seeds")
    handles, texts = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside right upper", frameon=False, fontsize=9)
    return _png(figure)


def cost(rows: Sequence[Row]) -> bytes:
    """Test accuracy at the first budget over the seconds that an arm took, pretraining included."""
    pairs, test, train = pairs_of(rows), by_cell(rows, split="test"), by_cell(rows, split="train")
    names, labels = names_of(pairs), rows[0].labels
    figure, axes = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
    for index, pair in enumerate(pairs):
        seconds = sum(
            float(np.mean(list(train[(*pair, labels, "chosen", metric)].values())))
            for metric in ("pretrain_seconds", "transfer_seconds")
        )
        accuracy = estimate(list(test[(*pair, labels, "chosen", "accuracy")].values())).mean
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.plot([seconds], [accuracy], linestyle="", markersize=9, label=names[pair], color=colour, marker=marker)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    where = budget_title(labels, "labels ")
    axes.set(xlabel="seconds of pretraining and one transfer run", ylabel=f"test accuracy, {where}")
    _finish(axes)
    return _png(figure)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, facecolor="white")
    plt.close(figure)
    return buffer.getvalue()
