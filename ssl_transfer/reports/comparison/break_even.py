"""Compute the price of pretraining: seconds per point gained, and the use of the same time by its baseline.

The baseline is scratch on the same backbone, or imagenet for an arm that continues from ImageNet weights. `gain`
follows p values that are corrected (Holm 1979) for all arms and budgets, as the verdict does for its own comparisons.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssl_transfer.evaluation.comparison.curves import mean_curve
from ssl_transfer.evaluation.comparison.estimates import Estimate, paired_difference
from ssl_transfer.evaluation.comparison.label_budgets import budget_title
from ssl_transfer.evaluation.comparison.results import Results, chosen_accuracy
from ssl_transfer.evaluation.comparison.significance import CONFIDENCE, holm
from ssl_transfer.evaluation.metric_properties import ACCURACY
from ssl_transfer.models.init_names import starts_of


@dataclass(frozen=True, kw_only=True)
class Return:
    """Gain and cost of a pretrained arm at a budget, compared with its baseline on the same backbone."""

    arm: str
    backbone: str
    labels: str
    seconds: float
    """Pretraining time."""
    baseline: str
    """scratch or imagenet."""
    gain: Estimate
    """Test accuracy, 0..1, over the baseline."""
    p_value: float
    """Of the gain, corrected for all that are reported; nan without an interval over runs."""
    runs: float
    """Transfer runs of the baseline that take as long as the pretraining."""
    late: float
    """Validation accuracy that the baseline gained in the second half of its training, a bound on the use of more time;
    nan where it was not measured."""

    @property
    def outcome(self) -> str:
        """Return `gain`, `loss`, or `open` where the corrected p value is above 5 % or missing."""
        if not self.p_value <= 1.0 - CONFIDENCE:
            return "open"
        return "gain" if ACCURACY.score(self.gain.mean) > 0.0 else "loss"


def returns(results: Results) -> list[Return]:
    """Compute the return of each pretrained arm at each budget at which its baseline has finished too."""
    train = results.train
    validation = results.curves.of_runs(split="validation", metric="accuracy", shared=True)
    found = []
    for cell in results.test:
        arm, backbone, labels = cell[:3]
        baseline = starts_of(arm)[-1]
        beside = chosen_accuracy(baseline, backbone, labels)
        if cell[3:] != beside[3:] or arm == "scratch" or not results.share_seed(cell, beside):
            continue
        seconds = _mean(train[arm, backbone, labels, "chosen", "pretrain_seconds"])
        if seconds <= 0.0:
            continue
        one_run = _mean(train[baseline, backbone, labels, "chosen", "transfer_seconds"])
        curve = mean_curve(curve for run, curve in validation.items() if run[:3] == (baseline, backbone, labels))
        late = curve.values[-1] - float(curve.at([curve.steps[-1] // 2])[0]) if curve.steps else math.nan
        # Over runs alone: of one seed no gain is shown.
        gain = paired_difference(
            results.test[cell],
            results.test[beside],
            within=ACCURACY.limits,
            pretrainings=results.pretrainings(arm),
        )
        found.append(
            Return(
                arm=arm,
                backbone=backbone,
                labels=labels,
                seconds=seconds,
                baseline=baseline,
                gain=gain,
                p_value=gain.p_value,
                runs=seconds / one_run if one_run > 0.0 else math.nan,
                late=late,
            )
        )
    corrected = holm([one.p_value for one in found])
    return [replace(one, p_value=p_value) for one, p_value in zip(found, corrected, strict=True)]


def lines_of(found: Sequence[Return]) -> list[dict[str, str]]:
    """Format returns as lines of `arm`, `backbone`, `budget`, `baseline`, `outcome` and texts of their numbers."""
    return [
        {
            "arm": one.arm,
            "backbone": one.backbone,
            "budget": budget_title(one.labels),
            "baseline": one.baseline,
            "outcome": {"gain": "better", "loss": "worse", "open": "open"}[one.outcome],
            "seconds": f"{one.seconds:,.0f} s",
            "gain": one.gain.percent("+"),
            "price": _price(one),
            "runs": "-" if math.isnan(one.runs) else f"{one.runs:,.1f}",
            "late": "-" if math.isnan(one.late) else f"{100 * one.late:+.1f}",
        }
        for one in found
    ]


def sentences_of(found: Sequence[Return]) -> list[str]:
    """State for each arm the budgets at which its pretraining pays, and those at which it does not."""
    sentences = []
    for pair in dict.fromkeys((one.arm, one.backbone) for one in found):
        own = [one for one in found if (one.arm, one.backbone) == pair]
        paid, unpaid = ([one for one in own if (one.outcome == "gain") is wanted] for wanted in (True, False))
        single = " (one pretrained network)" if own[0].gain.pretrainings == 1 else ""
        name = f"{pair[0]} on {pair[1]}{single}, over {own[0].baseline}"
        seconds = f"{np.mean([one.seconds for one in own]):,.0f} s of pretraining"
        if not paid:
            sentences.append(f"{name}: {seconds}, and no gain is shown at any budget.")
        elif not unpaid:
            sentences.append(f"{name}: {seconds}, and a gain at every budget.")
        else:
            gained, none = (", ".join(budget_title(one.labels) for one in part) for part in (paid, unpaid))
            sentences.append(
                f"{name}: {seconds}; a gain at {gained}. At {none} it costs more than it is shown to give."
            )
    return sentences


def _price(one: Return) -> str:
    """Format seconds per point, with the interval of the gain."""
    if one.outcome == "loss":
        return "a loss"
    if one.outcome == "open":
        return "no gain shown"
    prices = [one.seconds / (100.0 * gain) for gain in (one.gain.mean, one.gain.high, one.gain.low)]
    # A corrected p value may be small where the interval of the difference by itself is not far from zero.
    price, low, high = (f"{price:,.0f}" if price >= 10.0 else f"{price:.2g}" for price in prices)
    return f"{price} s [{low}, {high}]"


def _mean(values: Mapping[int, float]) -> float:
    return float(np.mean(list(values.values())))
