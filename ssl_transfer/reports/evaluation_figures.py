"""Draw the figures of an evaluation as bytes of a PNG: confusion, reliability, corruptions."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from ssl_transfer.engine.printable import one_line
from ssl_transfer.evaluation.predictions import metrics

from .figures import COLOURS, MARKERS, png

_COUNTS_UP_TO = 20
"""Largest number of classes with numbers in the cells; with more they would not be readable."""
_NAMES_UP_TO = 120
_LONGEST_NAME = 22


def confusion(matrix: np.ndarray, classes: Sequence[str], title: str = "") -> bytes:
    """Draw the confusion matrix: rows are true classes; colours are shares of the row, numbers are images.

    Args:
        matrix: (K, K) int64, from `metrics.confusion`.
        classes: K names.
        title: heading of the figure.
    """
    count = len(classes)
    support = matrix.sum(axis=1, keepdims=True)
    # The row of a class without images stays grey.
    shares = np.divide(matrix, support, out=np.full(matrix.shape, np.nan), where=support > 0)
    names = [shown_name(name) for name in classes]
    side = min(16.0, 2.2 + 0.42 * count if count <= _COUNTS_UP_TO else 4.0 + 0.16 * count)
    margin = 0.07 * max(len(name) for name in names)
    figure, axes = plt.subplots(figsize=(side + margin + 1.2, side + margin), layout="constrained")
    colours = plt.get_cmap("Blues").with_extremes(bad="#DDDDDD")
    image = axes.imshow(shares, cmap=colours, vmin=0.0, vmax=1.0, interpolation="nearest")
    if count <= _NAMES_UP_TO:
        size = 9 if count <= _COUNTS_UP_TO else max(5, 9 - count // 25)
        upright = max(len(name) for name in names) > (12 if count == 2 else 5) or count > _COUNTS_UP_TO
        axes.set_xticks(range(count), names, rotation=90 if upright else 0, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
    if count <= _COUNTS_UP_TO:
        for row, column in np.ndindex(matrix.shape):
            if matrix[row, column]:
                colour = "white" if shares[row, column] > 0.55 else "#333333"
                text = f"{matrix[row, column]}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10 - min(4, len(text)))
    axes.set(xlabel="predicted", ylabel="true class")
    axes.set_title(one_line(title).replace("$", r"\$"), fontsize=11)
    figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, label="share of the true class")
    return png(figure)


def reliability(logits: Tensor, labels: Tensor, temperature: float) -> bytes:
    """Draw accuracy over confidence, before and after temperature scaling (Guo et al. 2017, figure 4).

    Below each: the number of images of each confidence.

    Args:
        logits: (N, K) or (N, 1), unscaled.
        labels: (N,) int64.
        temperature: fitted on validation images.
    """
    figure, panels = plt.subplots(
        2, 2, figsize=(8.2, 5.2), sharex=True, sharey="row", height_ratios=(3.2, 1), layout="constrained"
    )
    for column, divisor in enumerate((1.0, temperature)):
        scores = metrics.class_logits(logits) / divisor
        counts, accuracy, confidence = metrics.confidence_bins(scores, labels)
        error = metrics.calibration_error(scores, labels)
        title = "as it is" if column == 0 else f"scaled, T = {divisor:.3g}"
        panels[0][column].set_title(f"{title}: calibration error {100 * error:.1f} %", fontsize=11)
        _bars(panels[0][column], accuracy, confidence)
        edges = np.linspace(0.0, 1.0, len(counts) + 1)
        width = edges[1]
        panels[1][column].bar(edges[:-1], counts, width=width, align="edge", color="#7F7F7F", edgecolor="white")
        panels[1][column].set(xlabel="confidence", xlim=(0.0, 1.0))
        panels[1][column].spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("accuracy")
    panels[1][0].set_ylabel("images")
    panels[0][0].legend(frameon=False, loc="upper left", fontsize=9)
    return png(figure)


def _bars(axes: Axes, accuracy: np.ndarray, confidence: np.ndarray) -> None:
    """Draw a bar a bin up to its accuracy, and the gap from there to its mean confidence."""
    edges = np.linspace(0.0, 1.0, len(accuracy) + 1)
    width, held = edges[1], ~np.isnan(accuracy)
    starts, heights, gaps = edges[:-1][held], accuracy[held], (confidence - accuracy)[held]
    axes.bar(starts, heights, width=width, align="edge", color=COLOURS[2], edgecolor="white", label="accuracy")
    axes.bar(
        *(starts, gaps),
        bottom=heights,
        width=width,
        align="edge",
        facecolor="none",
        edgecolor=COLOURS[4],
        hatch="////",
        linewidth=0.8,
        label="gap to the confidence",
    )
    axes.plot([0.0, 1.0], [0.0, 1.0], linestyle="--", color="#333333", linewidth=1)
    axes.set_ylim(0.0, 1.0)
    axes.spines[["top", "right"]].set_visible(False)


def corruptions(accuracies: Mapping[str, Sequence[float]], clean: float) -> bytes:
    """Draw accuracy over the severity of each corruption; severity 0 is the original image.

    Args:
        accuracies: of each corruption, at severities 1, 2, ...
        clean: without corruption.
    """
    figure, axes = plt.subplots(figsize=(7.0, 4.0), layout="constrained")
    for index, (name, values) in enumerate(accuracies.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.plot(range(len(values) + 1), [clean, *values], color=colour, marker=marker, label=name.replace("_", " "))
    axes.set(xlabel="severity", ylabel="accuracy", xticks=range(1 + max(len(values) for values in accuracies.values())))
    axes.set_ylim(0.0, 1.02)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return png(figure)


def shown_name(name: str) -> str:
    """Shorten a class's name to a label; control characters are escaped, and dollars, which would start a formula."""
    name = one_line(name)
    # Long names often differ at their ends.
    half = _LONGEST_NAME // 2
    short = name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"
    return short.replace("$", r"\$")
