"""Show adversarial examples of one model, and accuracy under attack of one or several as tables and curves."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.predictions.attack_table import (
    ARM_COLUMNS,
    CLEAN,
    RUN_COLUMNS,
    Line,
    Outcome,
    arm_rows,
    lines_of,
    run_rows,
)
from ssl_transfer.evaluation.predictions.attacks import Attack, attacked, least_likely, scores_of
from ssl_transfer.models.classifier import Classifier
from ssl_transfer.reports.evaluation import write_picture
from ssl_transfer.reports.evaluation_figures import shown_name
from ssl_transfer.reports.markdown import escaped

from .grids import Cell, bands_note, curves, epsilon_text, grid, marked, pixels_of, short_name
from .page import Section
from .subject import Subject

_NOISE = 0.01
"""Rise in accuracy that is ignored as noise."""


def table(folder: Path, found: Sequence[Outcome], *, split: str) -> Section:
    """Write `attacks.csv` (arms), `attacks_runs.csv`, `attacks.md` and `attacks.png`."""
    lines = lines_of(found)
    write_tables.write_readable_lines(folder / "attacks.csv", ARM_COLUMNS, arm_rows(lines))
    write_tables.write_readable_lines(folder / "attacks_runs.csv", RUN_COLUMNS, run_rows(found))
    headings, rows = table_of(lines)
    seeds = max(one.accuracy.count for one in lines)
    sentence = (
        f"Accuracy in percent on {len(found[0].hits):,} {split} images, no pixel moved by more than epsilon (in units "
        f"of 0..1), with 95 % intervals over {f'{seeds} seeds' if seeds > 1 else 'the images'}. Below it, of several "
        "arms the difference to the first; of targeted attacks, which leave out the images "
        "of the class that they want, how often the model says it. "
        "These attacks know the model and are bounds from above: stronger ones may leave less."
    )
    coarse = _coarse_note(lines)
    marked_rows = [f"| {' | '.join('<br>'.join(map(escaped, cell.splitlines())) for cell in row)} |" for row in rows]
    rule = "|" + "---|" * len(headings)
    text = [*map(escaped, _said(sentence, coarse)), "", f"| {' | '.join(map(escaped, headings))} |", rule, *marked_rows]
    write_text(folder / "attacks.md", "\n".join(text) + "\n")
    drawn = curves(panels_of(lines), [0.0, *_epsilons(lines)])
    write_picture(folder / "attacks.png", drawn)
    return Section(
        title="Accuracy under attack",
        sentences=_said(sentence, coarse),
        pictures=(("Accuracy over epsilon", drawn),),
        headings=headings,
        lines=tuple(rows),
    )


def _coarse_note(lines: Sequence[Line]) -> str:
    """Return a note where accuracy rises with epsilon; otherwise empty."""
    accuracies: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one in lines:
        accuracies.setdefault((one.arm, one.condition[0]), []).append((one.condition[1], one.accuracy.mean))
    weaker = [
        f"{attack} on {arm}"
        for (arm, attack), found in accuracies.items()
        if any(after[1] > before[1] + _NOISE for before, after in itertools.pairwise(sorted(found)))
    ]
    if not weaker:
        return ""
    remedies = [
        words
        for name, words in (
            ("PGD", "--pgd-steps makes those of PGD finer"),
            ("FGSM", "FGSM has one, and PGD is the better measure"),
        )
        if any(attack.startswith(name) for attack in weaker)
    ]
    return (
        "A larger epsilon allows all that a smaller one does, so where accuracy rises with it the attack's steps were "
        f"too coarse ({'; '.join(weaker)}): {'; '.join(remedies)}."
    )


def table_of(lines: Sequence[Line]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings, and for each attack and epsilon a row with a cell an arm."""
    arms = list(dict.fromkeys(one.arm for one in lines))
    by_place = {(one.condition, one.arm): one for one in lines}
    rows = []
    for condition in dict.fromkeys(one.condition for one in lines):
        cells = [_cell(by_place[condition, arm]) for arm in arms]
        rows.append((condition[0], "" if condition[0] == CLEAN else epsilon_text(condition[1]), *cells))
    return ("attack", "epsilon", *arms), rows


def _cell(line: Line) -> str:
    parts = [line.accuracy.percent()]
    if line.difference is not None:
        parts.append(f"{line.difference.percent('+')} to {line.baseline}")
    if line.target_share is not None:
        parts.append(f"gets its class {line.target_share.percent()}")
    return "\n".join(parts)


def _epsilons(lines: Sequence[Line]) -> list[float]:
    return sorted({one.condition[1] for one in lines if one.condition[0] != CLEAN})


def panels_of(lines: Sequence[Line]) -> list[tuple[str, list[tuple[str, np.ndarray]]]]:
    """Return accuracy with its interval at every epsilon, for each attack and arm; epsilon 0 is the original images."""
    arms = list(dict.fromkeys(one.arm for one in lines))
    attacks = dict.fromkeys(one.condition[0] for one in lines if one.condition[0] != CLEAN)
    found = {(one.arm, one.condition): one.accuracy for one in lines}

    def points(arm: str, attack: str) -> np.ndarray:
        places = [(CLEAN, 0.0), *((attack, epsilon) for epsilon in _epsilons(lines))]
        values = [found[arm, place] for place in places]
        known = [(one.mean, one.low, one.high) for one in values]
        return np.array([[bound if math.isfinite(bound) else math.nan for bound in one] for one in known])

    return [(attack, [(arm, points(arm, attack)) for arm in arms]) for attack in attacks]


def examples(
    subject: Subject,
    classifier: Classifier,
    folder: Path,
    *,
    attacks: Sequence[Attack],
    epsilon: float,
    target: int | None,
    seed: int,
) -> Section:
    """Show images, each attack's perturbation, and the model's predictions for the result."""
    shown = subject.shown
    classes = [shown_name(name) for name in subject.classes]
    scores = scores_of(classifier)
    with torch.no_grad():
        before = scores(shown.views).softmax(dim=1)
    labels = torch.tensor(shown.labels, device=shown.views.device)
    # For files without a class, an attack leads away from the predicted one.
    labels = torch.where(labels >= 0, labels, before.argmax(dim=1))
    towards = least_likely(scores, shown.views, labels) if target is None else torch.full_like(labels, target)
    keys = sample_keys(seed, 0, torch.arange(len(labels))).to(labels.device)
    found = []
    for attack in attacks:
        wanted = towards if attack.targeted else labels
        moved = attacked(scores, shown.views, wanted, keys, attack=attack, epsilon=epsilon)
        with torch.no_grad():
            found.append((attack, moved, scores(moved).softmax(dim=1)))
    rows, lines = [], []
    for image, name in enumerate(shown.names):
        label, goal = int(labels[image]), int(towards[image])
        words, colour = _says(before[image], classes, label)
        cells = [Cell(pixels=pixels_of(shown.views[image]), caption=f"image\n{words}", colour=colour)]
        for attack, moved, after in found:
            change = (moved[image] - shown.views[image]).cpu()
            goes = f" to {classes[goal]}" if attack.targeted else ""
            cells.append(
                Cell(pixels=pixels_of(0.5 + change / (2.0 * epsilon)), caption=f"change by {attack.name.upper()}{goes}")
            )
            words, colour = _says(after[image], classes, label)
            cells.append(Cell(pixels=pixels_of(moved[image]), caption=words, colour=colour))
            said, sure = int(after[image].argmax()), float(after[image].max())
            largest = float(change.abs().max())
            aim = subject.classes[goal] if attack.targeted else ""
            then, held = subject.classes[int(before[image].argmax())], float(before[image].max())
            lines.append(
                (
                    name,
                    subject.classes[label],
                    attack.label,
                    epsilon,
                    aim,
                    largest,
                    then,
                    held,
                    subject.classes[said],
                    sure,
                )
            )
        rows.append((f"true class\n{classes[label]}" if shown.labels[image] >= 0 else short_name(name), cells))
    drawn = grid(f"adversarial examples of {subject.name}, epsilon {epsilon_text(epsilon)}", rows)
    write_picture(folder / "attacks_examples.png", drawn)
    columns = ("image", "true_class", "attack", "epsilon", "towards", "largest_change")
    write_tables.write_readable_lines(
        folder / "attacks_examples.csv",
        (*columns, "said_before", "probability_before", "said_after", "probability_after"),
        lines,
    )
    sentences = (
        f"Images as the model sees them, what an attack adds at epsilon {epsilon_text(epsilon)} (enlarged, so that "
        "grey is no change, and white and black are epsilon up and down), and the sum with what the model then says.",
        bands_note(shown.views.shape[1]),
    )
    return Section(
        title=f"Adversarial examples of {subject.name}",
        sentences=_said(*sentences),
        pictures=(("Adversarial examples", drawn),),
    )


def _says(probabilities: Tensor, classes: Sequence[str], label: int) -> tuple[str, str]:
    said = int(probabilities.argmax())
    return marked(said == label, f"{classes[said]}, {float(probabilities[said]):.0%}")


def _said(*sentences: str) -> tuple[str, ...]:
    return tuple(sentence for sentence in sentences if sentence)
