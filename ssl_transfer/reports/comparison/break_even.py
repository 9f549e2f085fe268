"""What pretraining cost for what it gave: seconds a point, and what the start without it makes of the same time.

That start is scratch on the same backbone, or for what goes on from ImageNet weights imagenet on it. `gain` goes by p
values that are corrected (Holm 1979) for all arms and budgets here, as the sentence of the report does for its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssl_transfer.evaluation.comparison.curves import curves_of_runs, mean_curve
from ssl_transfer.evaluation.comparison.estimates import SHARE, Estimate, Row, budget_title, by_cell, paired_difference
from ssl_transfer.evaluation.comparison.significance import CONFIDENCE, holm
from ssl_transfer.models.init_names import CONTINUED


@dataclass(frozen=True, kw_only=True)
class Return:
    """Of an arm at a budget, beside the start without its pretraining on the same backbone."""

    arm: str
    backbone: str
    labels: str
    seconds: float
    """Of pretraining."""
    baseline: str
    """scratch or imagenet."""
    gain: Estimate
    """Test accuracy, 0..1, over the baseline."""
    p_value: float
    """Of the gain, corrected for all that are reported; nan where no seeds tell."""
    runs: float
    """Transfer runs of the baseline that take as long as the pretraining."""
    late: float
    """What the second half of its own training gave the baseline, in validation accuracy: what more time would bring it
    is seldom more. nan where it was not measured."""

    @property
    def outcome(self) -> str:
        """`gain`, `loss`, or `open` where the corrected p value is above 5 % or there is none."""
        if not self.p_value <= 1.0 - CONFIDENCE:
            return "open"
        return "gain" if self.gain.mean > 0.0 else "loss"


def returns(rows: Sequence[Row], curves: Sequence[Mapping[str, Any]]) -> list[Return]:
    """One for each arm that pretrained, and each budget at which its baseline stands beside it."""
    test, train = by_cell(rows, split="test"), by_cell(rows, split="train")
    validation = curves_of_runs(curves, split="validation", metric="accuracy", shared=True)
    found = []
    for (arm, backbone, labels, phase, metric), ours in test.items():
        baseline = "imagenet" if arm.startswith(CONTINUED) else "scratch"
        theirs = test.get((baseline, backbone, labels, phase, metric), {})
        if (phase, metric) != ("chosen", "accuracy") or arm == "scratch" or not ours.keys() & theirs.keys():
            continue
        seconds = _mean(train[arm, backbone, labels, "chosen", "pretrain_seconds"])
        if seconds <= 0.0:
            continue
        one_run = _mean(train[baseline, backbone, labels, "chosen", "transfer_seconds"])
        curve = mean_curve(curve for run, curve in validation.items() if run[:3] == (baseline, backbone, labels))
        late = curve.values[-1] - float(curve.at([curve.steps[-1] // 2])[0]) if curve.steps else math.nan
        found.append(
            Return(
                arm=arm,
                backbone=backbone,
                labels=labels,
                seconds=seconds,
                baseline=baseline,
                gain=(gain := paired_difference(ours, theirs, within=SHARE)),
                p_value=gain.p_value,
                runs=seconds / one_run if one_run > 0.0 else math.nan,
                late=late,
            )
        )
    corrected = holm([one.p_value for one in found])
    return [replace(one, p_value=p_value) for one, p_value in zip(found, corrected, strict=True)]


def lines_of(found: Sequence[Return]) -> list[dict[str, str]]:
    """`arm`, `backbone`, `budget`, `baseline`, `outcome` and texts: `seconds`, `gain`, `price`, `runs`, `late`."""
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
    """For each arm where its pretraining pays and from where on it costs more than it gives."""
    sentences = []
    for pair in dict.fromkeys((one.arm, one.backbone) for one in found):
        own = [one for one in found if (one.arm, one.backbone) == pair]
        paid, unpaid = ([one for one in own if (one.outcome == "gain") is wanted] for wanted in (True, False))
        name = f"{pair[0]} on {pair[1]}, over {own[0].baseline}"
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
    """Seconds a point; the interval is that of the gain."""
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
