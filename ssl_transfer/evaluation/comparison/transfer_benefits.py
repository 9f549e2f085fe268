"""Measure the three benefits of transfer on learning curves: jumpstart, steps to a threshold, asymptote.

Torrey and Shavlik, "Transfer learning", Handbook of Research on Machine Learning Applications, 2010, figure 2: a higher
start (jumpstart), a steeper slope, a higher asymptote. All three are of validation accuracy, each arm against scratch
on the same backbone, paired by seed:

- jumpstart: the difference before any training, by nearest neighbours in the features, as a new head is random. Where
  that was not measured: the difference at the first measurement, and the note gives its step.
- steps to threshold: the steps until the accuracy first reaches the threshold, by default 90 % of the final accuracy of
  scratch with the same seed. Steps are as coarse as the interval between measurements.
- asymptote: the difference at the end of the last phase.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.evaluation.metric_properties import ACCURACY, POSITIVE, Limits

from .curves import Curve, RunKey
from .estimates import paired_difference
from .results import Results

SHARE_OF_SCRATCH = 0.9
"""Default threshold, as a share of scratch's final accuracy."""
BENEFIT_COLUMNS = (
    *("arm", "backbone", "labels", "baseline", "benefit", "num_seeds", "ours", "theirs"),
    *("difference", "difference_low", "difference_high", "p_value", "note"),
)


def transfer_benefits(results: Results, *, threshold: float | None = None) -> list[dict[str, str | int | float]]:
    """Measure jumpstart, steps to threshold and asymptote: the lines of `transfer_benefits.csv`.

    `ours` and `theirs` are means over shared seeds; `difference` is paired by seed, with its 95 % interval. Seeds that
    never reach the threshold are left out of the steps, and the note counts them; nan where none is left. The threshold
    is an accuracy, 0..1; None takes `SHARE_OF_SCRATCH` of each seed's scratch.
    """
    cells = _by_cell(results.curves.of_runs(split="validation", metric="accuracy"))
    neighbours = _by_cell(results.curves.of_runs(split="validation", metric="knn_accuracy"))
    rows = []
    for (arm, backbone, labels), ours in cells.items():
        theirs = cells.get(("scratch", backbone, labels), {})
        seeds = sorted(ours.keys() & theirs.keys())
        if arm == "scratch" or not seeds:
            continue
        measured = _measured(ours, theirs, seeds, threshold)
        known = [neighbours.get((name, backbone, labels), {}) for name in (arm, "scratch")]
        if all(by_seed.keys() >= set(seeds) for by_seed in known):
            starts = [_values_at(by_seed, seeds, 0) for by_seed in known]
            measured["jumpstart"] = (starts[0], starts[1], "nearest neighbours in the features, before any training")
        for benefit, (our_values, their_values, note) in measured.items():
            within = POSITIVE if benefit == "steps_to_threshold" else ACCURACY.limits
            numbers = (*_compared(our_values, their_values, within, results.pretrainings(arm)), note)
            rows.append(dict(zip(BENEFIT_COLUMNS, (arm, backbone, labels, "scratch", benefit, *numbers), strict=True)))
    return rows


def _by_cell(curves: Mapping[RunKey, Curve]) -> dict[tuple[str, str, str], dict[int, Curve]]:
    """Group curves: (arm, backbone, labels) -> seed -> curve."""
    cells: dict[tuple[str, str, str], dict[int, Curve]] = defaultdict(dict)
    for (arm, backbone, labels, seed), curve in curves.items():
        cells[arm, backbone, labels][seed] = curve
    return cells


def _compared(
    ours: dict[int, float], theirs: dict[int, float], within: Limits, pretrainings: Mapping[int, int] | None
) -> tuple[int | float, ...]:
    """Return the columns from `num_seeds` to `p_value`, over shared seeds."""
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return (0, *(math.nan,) * 3, -math.inf, math.inf, math.nan)
    means = [float(np.mean([values[seed] for seed in shared])) for values in (ours, theirs)]
    found = paired_difference(ours, theirs, within=within, pretrainings=pretrainings)
    return (found.count, *means, found.mean, found.low, found.high, found.p_value)


def _measured(
    ours: dict[int, Curve], theirs: dict[int, Curve], seeds: Sequence[int], threshold: float | None
) -> dict[str, tuple[dict[int, float], dict[int, float], str]]:
    """Return for each benefit our values and those of scratch, by seed, and a note."""
    first = max(curves[seed].steps[0] for curves in (ours, theirs) for seed in seeds)
    begun = f"first measured at step {first}, when training had begun" if first else "measured before any training"
    asked = {seed: SHARE_OF_SCRATCH * theirs[seed].values[-1] if threshold is None else threshold for seed in seeds}
    reached = [
        {seed: float(step) for seed in seeds if (step := curves[seed].steps_to(asked[seed])) is not None}
        for curves in (ours, theirs)
    ]
    what = f" ({SHARE_OF_SCRATCH:.0%} of scratch's final accuracy)" if threshold is None else ""
    counts = f"reached in {len(reached[0])} of {counted(len(seeds), 'run')}, and in {len(reached[1])} from scratch"
    level = f"threshold {np.mean(list(asked.values())):.3f}{what}; {counts}"
    return {
        "jumpstart": (_values_at(ours, seeds, 0), _values_at(theirs, seeds, 0), begun),
        "steps_to_threshold": (reached[0], reached[1], level),
        "asymptote": (_values_at(ours, seeds, -1), _values_at(theirs, seeds, -1), "at the end of the last phase"),
    }


def _values_at(curves: dict[int, Curve], seeds: Sequence[int], place: int) -> dict[int, float]:
    return {seed: curves[seed].values[place] for seed in seeds}
