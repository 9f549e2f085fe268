"""Draw label efficiency, learning curves and cost of a comparison, each as the bytes of a PNG."""

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

from ssl_transfer.engine.printable import one_line
from ssl_transfer.evaluation.comparison.curves import mean_curve
from ssl_transfer.evaluation.comparison.label_budgets import budget_title
from ssl_transfer.evaluation.comparison.results import Pair, Results, chosen_accuracy
from ssl_transfer.models.init_names import CONTINUED

# Okabe and Ito's colours, told apart with every common kind of colour blindness; markers differ besides.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F")
MARKERS = "osD^vPX*"


def names_of(pairs: Sequence[Pair]) -> dict[Pair, str]:
    """Name each pair: by its arm, and by its backbone where the arm runs on several."""
    counts = defaultdict(set)
    for arm, backbone in pairs:
        counts[arm].add(backbone)
    return {
        (arm, backbone): one_line(f"{arm} ({backbone})" if len(counts[arm]) > 1 else arm) for arm, backbone in pairs
    }


@dataclass(frozen=True, kw_only=True)
class Style:
    """Line and marker of a pair."""

    colour: str
    marker: str
    dash: str
    filled: bool
    """Fill the marker."""


def styles_of(pairs: Sequence[Pair]) -> dict[Pair, Style]:
    """Assign a colour and a marker to each pair; imagenet+METHOD has those of METHOD, dotted, with an open marker."""
    styles: dict[Pair, Style] = {}
    looks = dict.fromkeys((arm.removeprefix(CONTINUED), backbone) for arm, backbone in pairs)
    for index, (arm, backbone) in enumerate(looks):
        # Past the last colour the markers move on by one, so that 64 pairs are told apart.
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
        dash = "--" if arm == "scratch" else "-"
        styles[arm, backbone] = Style(colour=colour, marker=marker, dash=dash, filled=True)
        styles[f"{CONTINUED}{arm}", backbone] = Style(colour=colour, marker=marker, dash=":", filled=False)
    return {pair: styles[pair] for pair in pairs}


def label_efficiency(results: Results) -> bytes:
    """Draw test accuracy over label budgets, with 95 % intervals over runs."""
    pairs, cells, budgets = results.pairs, results.test, results.budgets
    names, styles = names_of(pairs), styles_of(pairs)
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    floor = 1.0
    for index, pair in enumerate(pairs):
        # Where runs failed, a budget may have none.
        measured = [labels for labels in budgets if chosen_accuracy(*pair, labels) in cells]
        found = [results.estimate(chosen_accuracy(*pair, labels)) for labels in measured]
        # Points of one budget stand side by side, so that their intervals can be read.
        offset = (index - (len(pairs) - 1) / 2) * 0.06
        means = np.array([item.mean for item in found])
        below, above = reaches = np.array([item.reach if item.over_runs else (0.0, 0.0) for item in found]).T
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


def learning_curves(results: Results) -> bytes:
    """Draw accuracy over all phases, mean over seeds: training above validation, one column a budget.

    A dotted line with the name of a phase marks its beginning.
    """
    pairs, budgets, curves = results.pairs, results.budgets, results.curves
    names, styles, starts = names_of(pairs), styles_of(pairs), curves.phase_starts(shared=True)
    found = {split: curves.of_runs(split=split, metric="accuracy", shared=True) for split in ("train", "validation")}
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


def cost(results: Results) -> bytes:
    """Draw test accuracy at the first budget over the seconds of pretraining and one transfer run."""
    pairs, test, train = results.pairs, results.test, results.train
    names, styles, labels = names_of(pairs), styles_of(pairs), results.budgets[0]
    figure, axes = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
    for pair in pairs:
        cell = chosen_accuracy(*pair, labels)
        if cell not in test:
            continue
        seconds = sum(
            float(np.mean(list(train[(*pair, labels, "chosen", metric)].values())))
            for metric in ("pretrain_seconds", "transfer_seconds")
        )
        accuracy = float(np.mean(list(test[cell].values())))
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
    """Encode a figure as PNG and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, facecolor="white")
    plt.close(figure)
    return buffer.getvalue()
