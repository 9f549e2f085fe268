"""What pretraining cost for what it gave: seconds a point, and what scratch makes of the same time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.curves import curves_of_runs, mean_curve
from ..evaluation.statistics import Estimate, Row, budget_title, by_cell, paired_difference


@dataclass(frozen=True, kw_only=True)
class Return:
    """Of an arm at a budget, beside scratch on the same backbone."""

    arm: str
    backbone: str
    labels: str
    seconds: float
    """Of pretraining."""
    gain: Estimate
    """Test accuracy, 0..1, over scratch."""
    runs: float
    """Transfer runs from scratch that take as long as the pretraining."""
    late: float
    """What the second half of its own training gave scratch, in validation accuracy: what more time would bring it is
    seldom more. nan where it was not measured."""

    @property
    def outcome(self) -> str:
        """`gain`, `loss`, or `open` where the interval holds zero or there is none."""
        if math.isinf(self.gain.low):
            return "open"
        return "gain" if self.gain.low > 0.0 else "loss" if self.gain.high < 0.0 else "open"


def returns(rows: Sequence[Row], curves: Sequence[Mapping[str, Any]]) -> list[Return]:
    """One for each arm that pretrained, and each budget at which scratch stands beside it."""
    test, train = by_cell(rows, split="test"), by_cell(rows, split="train")
    validation = curves_of_runs(curves, split="validation", metric="accuracy", shared=True)
    found = []
    for (arm, backbone, labels, phase, metric), ours in test.items():
        theirs = test.get(("scratch", backbone, labels, phase, metric))
        if (phase, metric) != ("chosen", "accuracy") or arm == "scratch" or theirs is None:
            continue
        seconds = _mean(train[arm, backbone, labels, "chosen", "pretrain_seconds"])
        if seconds <= 0.0:
            continue
        one_run = _mean(train["scratch", backbone, labels, "chosen", "transfer_seconds"])
        curve = mean_curve(curve for run, curve in validation.items() if run[:3] == ("scratch", backbone, labels))
        late = curve.values[-1] - float(curve.at([curve.steps[-1] // 2])[0]) if curve.steps else math.nan
        found.append(
            Return(
                arm=arm,
                backbone=backbone,
                labels=labels,
                seconds=seconds,
                gain=paired_difference(ours, theirs),
                runs=seconds / one_run if one_run > 0.0 else math.nan,
                late=late,
            )
        )
    return found


def lines_of(found: Sequence[Return]) -> list[dict[str, str]]:
    """`arm`, `backbone`, `budget`, `outcome` and texts: `seconds`, `gain`, `price`, `runs`, `late`."""
    return [
        {
            "arm": one.arm,
            "backbone": one.backbone,
            "budget": budget_title(one.labels),
            "outcome": {"gain": "better", "loss": "worse", "open": "open"}[one.outcome],
            "seconds": f"{one.seconds:,.0f} s",
            "gain": _gain(one.gain),
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
        name, seconds = f"{pair[0]} on {pair[1]}", f"{np.mean([one.seconds for one in own]):,.0f} s of pretraining"
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
    return f"{prices[0]:,.2g} s [{prices[1]:,.2g}, {prices[2]:,.2g}]" if prices[2] < 100 else f"{prices[0]:,.0f} s"


def _gain(gain: Estimate) -> str:
    interval = "" if math.isinf(gain.low) else f" [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    return f"{100 * gain.mean:+.1f}{interval}"


def _mean(values: Mapping[int, float]) -> float:
    return float(np.mean(list(values.values())))
