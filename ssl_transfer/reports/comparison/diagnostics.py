"""Draw confusion matrices, feature maps and reconstructions of a comparison, and tabulate differing settings."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.evaluation.comparison.label_budgets import budget_title
from ssl_transfer.evaluation.comparison.results import Pair, Results, chosen_accuracy
from ssl_transfer.reports.evaluation_figures import confusion, shown_name
from ssl_transfer.reports.figures import COLOURS, MARKERS, names_of, png

_COLUMNS = 3
"""Maps in a row of the picture."""
_MOST_CLASSES = 24
"""Classes with a colour and a mark in a map; the others are grey."""
_MIX_UPS = 3
"""Most frequent mistakes that a caption lists."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture of the report."""

    name: str
    """File name without `.png`."""
    content: bytes
    """PNG."""
    caption: str


def confusions(results: Results) -> list[Shown]:
    """Draw the confusion matrices of the best and worst arm at the least and largest budget, summed over seeds.

    Validation accuracy ranks the arms. Empty where an older version stored no predictions.
    """
    counts: dict[tuple[str, str, str], list[Mapping[str, str]]] = defaultdict(list)
    for line in results.confusions:
        counts[line["arm"], line["backbone"], line["labels"]].append(line)
    description, names = results.description, names_of(results.pairs)
    budgets = sorted({labels for *_, labels in counts}, key=lambda labels: description["images"][labels][0])
    found = []
    for which, labels in {"least": budgets[:1], "largest": budgets[1:][-1:]}.items():
        for budget in labels:
            means = {
                key[:2]: float(np.mean(list(results.validation[chosen_accuracy(*key)].values())))
                for key in counts
                if key[2] == budget
            }
            best, worst = max(means, key=lambda pair: means[pair]), min(means, key=lambda pair: means[pair])
            for place, pair in {"best": best, "worst": worst}.items() if best != worst else [("best", best)]:
                matrix = _matrix(counts[*pair, budget], description["classes"])
                where = f"{names[pair]}, {budget_title(budget, 'label')}"
                found.append(
                    Shown(
                        name=f"confusion_{which}_{place}",
                        content=confusion(matrix, description["classes"], f"{place}: {where}"),
                        caption=f"{where}: {_mix_ups(matrix, description['classes'])}",
                    )
                )
    return found


def _matrix(lines: Sequence[Mapping[str, str]], classes: Sequence[str]) -> np.ndarray:
    """Build the confusion matrix, (K, K) int64, with true classes in rows."""
    places = {name: place for place, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for line in lines:
        matrix[places[line["class"]], places[line["predicted"]]] = int(line["num_images"])
    return matrix


def _mix_ups(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """List the most frequent mistakes."""
    mistakes = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:_MIX_UPS]
    places = [divmod(int(place), len(classes)) for place in order]
    said = [
        f"{classes[row]} taken for {classes[column]} ({100 * mistakes[row, column] / matrix[row].sum():.0f} %)"
        for row, column in places
        if mistakes[row, column]
    ]
    total = f"{counted(int(mistakes.sum()), 'mistake')} in {int(matrix.sum()):,}"
    return f"{total}{'; most often ' if said else ''}{', '.join(said)}."


def embedding_map(results: Results) -> Shown | None:
    """Draw a map of each arm's frozen features of the same validation images; None where there are none."""
    points: dict[Pair, list[Mapping[str, str]]] = defaultdict(list)
    for line in results.embeddings:
        points[line["arm"], line["backbone"]].append(line)
    names = names_of(results.pairs)
    maps = {pair: points[pair] for pair in names if pair in points}
    if not maps:
        return None
    classes = sorted({line["class"] for line in next(iter(maps.values()))})
    width = min(_COLUMNS, len(maps))
    height = math.ceil(len(maps) / width)
    figure, panels = plt.subplots(
        height, width, figsize=(2.6 * width + 1.2, 2.75 * height), squeeze=False, layout="constrained"
    )
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[], xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), aspect="equal")
        axes.set_visible(False)
    for axes, (pair, lines) in zip(panels.flat, maps.items(), strict=False):
        axes.set_visible(True)
        axes.set_title(names[pair].replace("$", r"\$"), fontsize=10)
        axes.spines[:].set_color("#BBBBBB")
        for number, name in enumerate(classes):
            own = np.array([(float(line["x"]), float(line["y"])) for line in lines if line["class"] == name])
            marked = number < _MOST_CLASSES
            axes.scatter(
                *own.reshape(-1, 2).T,
                s=16 if marked else 6,
                linewidths=0.3,
                edgecolors="white",
                color=COLOURS[number % len(COLOURS)] if marked else "#CCCCCC",
                marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)] if marked else ".",
                label=shown_name(name) if marked else None,
                zorder=2 if marked else 1,
            )
    handles, texts = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside right upper", frameon=False, fontsize=8, handletextpad=0.1)
    count = len(next(iter(maps.values())))
    some = f"each of the first {_MOST_CLASSES} of {len(classes)} classes"
    caption = (
        f"{counted(count, 'validation image')}, the same in every map; a colour and a mark for "
        f"{'each class' if len(classes) <= _MOST_CLASSES else some}."
    )
    return Shown(name="embeddings", content=png(figure), caption=caption)


def reconstructions(results: Results) -> list[Shown]:
    """Read the reconstructions of methods that have some, from the folders of their runs."""
    paths: Mapping[str, str] = results.description.get("reconstructions", {})
    return [
        Shown(name=path.removesuffix(".png"), content=(results.folder / path).read_bytes(), caption=arm)
        for arm, path in paths.items()
        if (results.folder / path).is_file()
    ]


def setting_lines(results: Results) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """List the arms whose settings differ, and for each differing setting its name and its values by arm."""
    settings: Mapping[str, Mapping[str, Any]] = results.description.get("settings", {})
    arms = list(dict.fromkeys(arm for values in settings.values() for arm in values))
    return arms, [
        (name, [_value(values[arm]) if arm in values else "" for arm in arms]) for name, values in settings.items()
    ]


def _value(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
