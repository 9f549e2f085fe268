"""Describe the confidence of a run's predictions, from its validation images."""

import csv

from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.reports import evaluation
from ssl_transfer.stages.common.run import Run


def describe_calibration(run: Run, temperature: float) -> str:
    """Describe in a sentence how dividing scores by the run's temperature calibrates its probabilities."""
    whose = " of the source, not of the target" if run.is_adapted else ""
    claim = "divided by a temperature, and not known to be calibrated" if run.temperature.doubts else "calibrated"
    return f"probabilities are {claim}: temperature {temperature:.3g}, fitted on the run's validation images{whose}"


def describe_threshold(run: Run, threshold: float, *, calibrated: bool) -> str:
    """Describe in a sentence the validation images whose confidence (0..1) reaches a threshold."""
    file = run.path / evaluation.FOLDER / evaluation.HELD_PREDICTIONS
    if not file.is_file():
        return "What that is worth is not known: the run keeps no predictions of its validation images."
    column = "confidence_scaled" if calibrated else "confidence"
    with open(file, encoding="utf-8", newline="") as opened:
        rows = [(float(row[column]) >= threshold, row["label"] == row["predicted"]) for row in csv.DictReader(opened)]
    if not rows:
        return "What that is worth is not known: the run had no validation images."
    right = [is_right for above, is_right in rows if above]
    everything = sum(is_right for _, is_right in rows) / len(rows)
    held = "validation, which is of the source," if run.is_adapted else "validation"
    kept = f"On {held} {len(right):,} of {counted(len(rows), 'image')} reach it"
    if not right:
        return f"{kept}, so nothing is known of what is kept."
    return f"{kept}; {sum(right) / len(right):.1%} of them are right, against {everything:.1%} of all."
