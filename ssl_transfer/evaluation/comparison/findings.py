"""Compare every pretrained arm with the better of scratch and public weights, at each label budget.

The start of a budget is the arm without pretraining on these images (scratch or public weights, on any backbone) that
validation prefers there. The findings are one family of claims with many chances of error, so their p values are
corrected (Holm 1979) for every pretrained arm at every budget. Two further choices are covered:

- `better` is a claim about all starts: the p value is the largest of the differences to each start (intersection-union
  test: Berger, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24, 1982). It needs no
  correction for the choice of the start.
- `worse` and `small` are claims about the chosen start, and validation may have chosen the luckiest of several: the
  p value is multiplied by their number (Bonferroni).

A budget without gain is a claim about all its arms, an intersection-union test. So `small` is corrected for the
budgets and not for the arms: for a single arm it describes an interval.

Among equal arms the findings claim a difference in at most 5 % of comparisons. Where all arms gain what matters, a gain
is denied at some budget in at most 5 %. Both hold under any dependence of arms, budgets and validation;
docs/statistics.md has the simulated rates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from ssl_transfer.evaluation.metric_properties import LOG_LOSS, Metric
from ssl_transfer.models.init_names import is_pretrained, is_public, is_run

from .estimates import Estimate
from .label_efficiency import LabelValue, value_of
from .results import Cell, Results
from .significance import CONFIDENCE, holm

Outcome = Literal["better", "worse", "small", "open", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A pretrained arm at one budget, compared with the start that validation prefers there."""

    labels: str
    arm: str
    backbone: str
    ours: Estimate
    start: str
    """scratch, imagenet or timm:NAME."""
    start_backbone: str
    theirs: Estimate
    """Estimate of the start."""
    difference: Estimate
    """To the start."""
    crossed: Estimate | None
    """The difference with an interval over runs and test images; None where it is unknown."""
    p_value: float
    """Corrected for all `num_compared`, and for the choice of the start; nan where the difference to a start is
    unknown."""
    p_value_small: float
    """One-sided, of a true gain of `worthwhile` or more; corrected for the budgets and for the choice of the start; nan
    where the interval is unknown."""
    num_compared: int
    """Pretrained arms times budgets."""
    num_seeds: int
    """Of the arm or of the start, the larger. Where runs failed, fewer are in both, and all numbers are of those."""
    is_preferred: bool
    """Validation prefers this arm among all pretrained ones of the budget."""
    is_taken: bool
    """Validation prefers it also to every start."""
    label_value: LabelValue | None
    """Value of the arm's labels in labels of the start; None where that has no curve."""
    metric: Metric
    worthwhile: float
    """Least gain that matters, as a difference of two values of the metric."""

    @property
    def gain(self) -> tuple[float, float, float]:
        """Return the difference and its interval in the direction that is better: mean, low, high."""
        score = self.metric.score
        bounds = sorted((score(self.difference.low), score(self.difference.high)))
        return score(self.difference.mean), bounds[0], bounds[1]

    @property
    def outcome(self) -> Outcome:
        """Return the claim that the difference supports.

        `unknown`: no interval over runs. `worse`: corrected p value at most 5 %. `small`: the interval lies below the
        gain that matters, and its corrected p value is at most 5 %. `better`: corrected p value at most 5 %. `open`:
        none of these.
        """
        if not self.difference.over_runs:
            return "unknown"
        mean, _, high = self.gain
        is_shown = self.p_value <= 1.0 - CONFIDENCE
        if mean < 0.0 and is_shown:
            return "worse"
        if high < self.worthwhile and self.p_value_small <= 1.0 - CONFIDENCE:
            return "small"
        return "better" if is_shown else "open"

    @property
    def is_single(self) -> bool:
        """Return whether the arm is one pretrained network, so that nothing is claimed about its method."""
        return self.difference.pretrainings == 1

    @property
    def is_finished_run(self) -> bool:
        """Return whether the arm is a run that was given, and not pretrained by this comparison."""
        return is_run(self.arm)


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """A pretrained arm at a budget and the start that validation prefers there."""

    arm: Cell
    start: Cell
    difference: Estimate
    p_value: float
    """Corrected for the choice of the start alone."""
    p_value_small: float
    """The same, of a true gain that matters."""
    preference: tuple[float, float]


def findings(results: Results) -> list[Finding]:
    """Compare every pretrained arm of each budget with its start, in the table's order."""
    family = [item for labels in results.budgets for item in _compared(results, labels)]
    corrected = holm([item.p_value for item in family])
    best = {
        labels: max((item for item in family if item.arm[2] == labels), key=lambda item: item.preference)
        for labels in dict.fromkeys(item.arm[2] for item in family)
    }
    found = []
    for item, p_value in zip(family, corrected, strict=True):
        arm, start = item.arm, item.start
        is_preferred = item is best[arm[2]]
        found.append(
            Finding(
                labels=arm[2],
                arm=arm[0],
                backbone=arm[1],
                ours=results.estimate(arm, start),
                start=start[0],
                start_backbone=start[1],
                theirs=results.estimate(start, arm),
                difference=item.difference,
                crossed=results.crossed_difference(arm, start),
                p_value=p_value,
                # One budget or two need no correction: the interval leaves 2.5 % above.
                p_value_small=float(np.minimum(1.0, len(best) * item.p_value_small)),
                num_compared=len(family),
                num_seeds=max(len(results.test[arm]), len(results.test[start])),
                is_preferred=is_preferred,
                is_taken=is_preferred and item.preference > _preference(results, start),
                label_value=value_of(results, arm, start[:2]),
                metric=results.metric,
                worthwhile=results.worthwhile,
            )
        )
    return found


def _compared(results: Results, labels: str) -> list[_Compared]:
    """Compare the pretrained arms of a budget, without those that share no seed with any start."""
    measured = [key for key in results.test if key[2:] == (labels, "chosen", results.metric.name)]
    items = []
    for arm in (key for key in measured if is_pretrained(key[0])):
        starts = [
            key for key in measured if (key[0] == "scratch" or is_public(key[0])) and results.share_seed(arm, key)
        ]
        # Without scratch nothing shows what any pretraining added.
        if not any(key[0] == "scratch" for key in starts):
            continue
        start = max(starts, key=lambda key: _preference(results, key))
        difference = results.difference(arm, start)
        items.append(
            _Compared(
                arm=arm,
                start=start,
                difference=difference,
                p_value=_p_value(results, difference, [results.difference(arm, key) for key in starts]),
                p_value_small=len(starts) * _p_value_small(results, difference),
                preference=_preference(results, arm),
            )
        )
    return items


def _p_value(results: Results, chosen: Estimate, all_starts: Sequence[Estimate]) -> float:
    """Correct the p value of the difference to the chosen start for the choice; nan where one is unknown."""
    gains = [results.metric.score(one.mean) for one in all_starts]
    if results.metric.score(chosen.mean) < 0.0:
        return min(1.0, len(all_starts) * chosen.p_value) if not math.isnan(chosen.p_value) else math.nan
    if min(gains) <= 0.0:
        return 1.0
    p_values = [one.p_value for one in all_starts]
    return math.nan if any(map(math.isnan, p_values)) else max(p_values)


def _p_value_small(results: Results, difference: Estimate) -> float:
    """Compute the one-sided p value of a true gain that matters; nan where the interval is unknown."""
    if not difference.over_runs:
        return math.nan
    error = difference.deviation / math.sqrt(difference.units)
    return float(
        special.stdtr(difference.units - 1, (results.metric.score(difference.mean) - results.worthwhile) / error)
    )


def _preference(results: Results, cell: Cell) -> tuple[float, float]:
    """Score a chosen cell by the primary metric on validation, then by its validation log-loss."""
    own = results.metric
    values = results.validation[*cell[:4], own.name].values()
    log_losses = results.validation.get((*cell[:4], LOG_LOSS.name), {}).values()
    return (
        own.score(float(np.mean(list(values)))),
        LOG_LOSS.score(float(np.mean(list(log_losses)))) if log_losses else 0.0,
    )
