"""Detect a sharp fall of accuracy at the start of a phase: what it trains undoes what the phase before it reached."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ssl_transfer.engine.io.json_files import read_lines

from .plans.phase_tree import Phase

LEAST_FALL = 0.1
"""Smaller falls of accuracy are not reported."""
STANDARD_ERRORS = 3.0
"""Least fall in standard errors of the difference of two shares."""
START = 0.1
"""Share of a phase's epochs that is its start."""


def falls(metrics: Path, path: Sequence[Phase], sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Find the phases at whose start the accuracy of training or validation images fell sharply.

    The last accuracy of the phase before is held against the lowest one of the phase's first tenth of epochs.

    Args:
        metrics: log of the run.
        path: phases of the chosen plan, each going on from the one before it.
        sizes: number of images of `train` and `validation`.

    Returns:
        For each fall `phase`, `split`, `before` and `after` (accuracies, 0..1), and `remedy`.
    """
    records = read_lines(metrics) if metrics.is_file() else []
    found = []
    for earlier, later in pairwise(path):
        for split, size in sizes.items():
            before, after = (_accuracies(records, phase.name, split) for phase in (earlier, later))
            start = [accuracy for epoch, accuracy in after if epoch <= max(1, round(START * later.epochs))]
            if later.kind == "steps" and before and start and _is_sharp(before[-1][1], min(start), size):
                values = {"before": before[-1][1], "after": min(start)}
                found.append({"phase": later.name, "split": split, **values, "remedy": _remedy(later)})
    return found


def sentence(fall: Mapping[str, Any]) -> str:
    """Report a fall of `falls` in a line."""
    images = {"train": "training", "validation": "validation"}[fall["split"]]
    return (
        f"{fall['phase']}: the accuracy of the {images} images fell from {fall['before']:.0%} to {fall['after']:.0%} "
        f"at the start of this phase. Try {fall['remedy']}."
    )


def _accuracies(records: Sequence[Mapping[str, Any]], phase: str, split: str) -> list[tuple[int, float]]:
    """Return (epoch, accuracy) of each measurement after the first step of a phase."""
    return [
        (record["epoch"], record["accuracy"])
        for record in records
        if record.get("phase") == phase and record.get("split") == split and record.get("step") and "accuracy" in record
    ]


def _is_sharp(before: float, after: float, size: int) -> bool:
    error = math.sqrt((before * (1.0 - before) + after * (1.0 - after)) / size)
    return before - after > max(LEAST_FALL, STANDARD_ERRORS * error)


def _remedy(phase: Phase) -> str:
    lower = f"a lower rate (rate={phase.learning_rate / 3:.1g} in its line of --plan), or more --optimizer.warmup-steps"
    return f"--batch-norm frozen, {lower}" if phase.batch_norm == "train" else lower
