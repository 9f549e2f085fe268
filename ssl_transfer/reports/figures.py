"""The report's pictures, drawn from the tables. Each comes back as the bytes of a PNG."""

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from ssl_transfer.evaluation.comparison.curves import curves_of_runs, mean_curve, phase_starts
from ssl_transfer.evaluation.comparison.estimates import SHARE, Row, budget_title, by_cell, estimate
from ssl_transfer.models.init_names import CONTINUED

# Okabe and Ito's colours, told apart with every common kind of colour blindness; markers differ besides.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F")
MARKERS = "osD^vPX*"
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


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a pair is drawn."""

    colour: str
    marker: str
    dash: str
    filled: bool
    """Whether its marker is filled."""


def styles_of(pairs: Sequence[Pair]) -> dict[Pair, Style]:
    """A colour and a marker for each pair. imagenet+METHOD has those of METHOD, dotted and with an open marker."""
    styles: dict[Pair, Style] = {}
    looks = dict.fromkeys((arm.removeprefix(CONTINUED), backbone) for arm, backbone in pairs)
    for index, (arm, backbone) in enumerate(looks):
        # Past the last colour the markers move on by one, so that 64 pairs are told apart.
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
        dash = "--" if arm == "scratch" else "-"
        styles[arm, backbone] = Style(colour=colour, marker=marker, dash=dash, filled=True)
        styles[f"{CONTINUED}{arm}", backbone] = Style(colour=colour, marker=marker, dash=":", filled=False)
    return {pair: styles[pair] for pair in pairs}


def phases_of(rows: Sequence[Row]) -> list[str]:
    """The phases of the plan, in its order: all but `chosen`, which is one of them once more."""
    return list(dict.fromkeys(row.phase for row in rows if row.phase != "chosen"))


def label_efficiency(rows: Sequence[Row]) -> bytes:
    """Test accuracy over the label budgets, with 95 % bands."""
    pairs, cells = pairs_of(rows), by_cell(rows, split="test")
    names, styles = names_of(pairs), styles_of(pairs)
    budgets = list(dict.fromkeys(row.labels for row in rows))
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    floor = 1.0
    for index, pair in enumerate(pairs):
        # Where runs failed, a budget may have none.
        measured = [labels for labels in budgets if (*pair, labels, "chosen", "accuracy") in cells]
        found = [
            estimate(list(cells[(*pair, labels, "chosen", "accuracy")].values()), within=SHARE) for labels in measured
        ]
        # Points of one budget stand side by side, so that their intervals can be read.
        offset = (index - (len(pairs) - 1) / 2) * 0.06
        means = np.array([item.mean for item in found])
        below, above = reaches = np.array([item.reach for item in found]).T
        floor = min(floor, float((means - below).min()))
        style = styles[pair]
        places = np.array([budgets.index(labels) for labels in measured])
        axes.errorbar(
            places + offset,
            means,
            yerr=reaches,
            label=names[pair],
            linestyle=style.dash,
            capsize=3,
            color=style.colour,
            marker=style.marker,
            markerfacecolor=style.colour if style.filled else "white",
        )
        axes.fill_between(places + offset, means - below, means + above, color=style.colour, alpha=0.1, linewidth=0)
    axes.set_xticks(range(len(budgets)), ["all" if budget == "all" else budget_title(budget) for budget in budgets])
    axes.set_ylim(max(0.0, floor - 0.03), 1.0)
    axes.set(xlabel="labelled images", ylabel="test accuracy")
    _finish(axes)
    return png(figure)


def learning_curves(curves: Sequence[dict[str, str]], rows: Sequence[Row]) -> bytes:
    """Accuracy over all phases, the mean over seeds: training above validation, one column a budget.

    A dotted line with a phase's name marks where it begins and unfreezes what it trains.
    """
    pairs, budgets = pairs_of(rows), list(dict.fromkeys(row.labels for row in rows))
    names, styles, starts = names_of(pairs), styles_of(pairs), phase_starts(curves, shared=True)
    found = {
        split: curves_of_runs(curves, split=split, metric="accuracy", shared=True) for split in ("train", "validation")
    }
    # Where training accuracy was not logged there is nothing to draw above.
    splits = [split for split, runs in found.items() if runs] or ["validation"]
    size = (3.4 * len(budgets) + 1.2, 2.9 * len(splits) + 0.9)
    figure, panels = plt.subplots(
        len(splits), len(budgets), figsize=size, sharex="col", sharey=True, squeeze=False, layout="constrained"
    )
    for column, labels in enumerate(budgets):
        begun = next((phases for run, phases in starts.items() if run[2] == labels), {})
        for split, axes in zip(splits, panels[:, column], strict=True):
            for pair in pairs:
                mean = mean_curve(curve for run, curve in found[split].items() if run[:3] == (*pair, labels))
                axes.plot(mean.steps, mean.values, styles[pair].dash, color=styles[pair].colour, label=names[pair])
            for phase, step in begun.items():
                if step:
                    axes.axvline(step, color="#7F7F7F", linewidth=1, linestyle=":")
                # The name stands in its phase, just above the axis; upright where many would collide.
                axes.annotate(
                    phase,
                    (step, 0.0),
                    xycoords=axes.get_xaxis_transform(),
                    xytext=(3, 3),
                    textcoords="offset points",
                    fontsize=8,
                    color="#555555",
                    rotation=90 if len(begun) > 3 else 0,
                )
            axes.set_xlim(left=0)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0][column].set_title(budget_title(labels, "label"))
        panels[-1][column].set_xlabel("optimiser steps")
    for split, axes in zip(splits, panels[:, 0], strict=True):
        axes.set_ylabel(f"{'training' if split == 'train' else split} accuracy")
    handles, texts = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside right upper", frameon=False, fontsize=9)
    return png(figure)


def cost(rows: Sequence[Row]) -> bytes:
    """Test accuracy at the first budget over the seconds that an arm took, pretraining included."""
    pairs, test, train = pairs_of(rows), by_cell(rows, split="test"), by_cell(rows, split="train")
    names, styles, labels = names_of(pairs), styles_of(pairs), rows[0].labels
    figure, axes = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
    for pair in pairs:
        if (*pair, labels, "chosen", "accuracy") not in test:
            continue
        seconds = sum(
            float(np.mean(list(train[(*pair, labels, "chosen", metric)].values())))
            for metric in ("pretrain_seconds", "transfer_seconds")
        )
        accuracy = float(np.mean(list(test[(*pair, labels, "chosen", "accuracy")].values())))
        style = styles[pair]
        axes.plot(
            [seconds],
            [accuracy],
            linestyle="",
            markersize=9,
            label=names[pair],
            color=style.colour,
            marker=style.marker,
            markerfacecolor=style.colour if style.filled else "white",
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    where = budget_title(labels, "label")
    axes.set(xlabel="seconds of pretraining and one transfer run", ylabel=f"test accuracy, {where}")
    _finish(axes)
    return png(figure)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a picture, and closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, facecolor="white")
    plt.close(figure)
    return buffer.getvalue()
