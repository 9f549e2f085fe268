"""Generate the verdict, one sentence, from intervals: a difference whose interval contains zero is not claimed.

The sentence as a whole is one claim with many chances of error: at each budget it names the best of the pretrained
arms, and the validation images that chose it share their luck (same backbone, same labels) with the test that follows.
So `better` and `worse` follow p values that are corrected (Holm 1979) for every pretrained arm at every budget, each
compared with the start that validation prefers there. Among equal arms the sentence claims a gain in at most 5 % of
comparisons, under any dependence of arms, budgets and validation. The choice of the start by validation is not
corrected for: of several starts the luckiest may be chosen, so that `worse` comes a little too often with many of them
(docs/decisions.md). The plain 95 % intervals stand beside it. Where one excludes zero and the corrected p value is
above 5 %, the sentence reports that and claims nothing. With one arm at one budget both agree. docs/decisions.md has
the simulated rates of both rules, and the cost of the correction: with few seeds much, which more seeds recover.

With one seed there is an interval over test images alone. It is given, but it does not cover another draw of labels, so
the sentence claims nothing from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssl_transfer.evaluation.metric_properties import ACCURACY, LOG_LOSS
from ssl_transfer.models.init_names import RUN, is_pretrained, starts_of

from .estimates import IMAGES, SEEDS, Estimate
from .label_budgets import budget_title, percent_of
from .label_efficiency import LabelValue, value_of
from .results import Cell, Results
from .significance import CONFIDENCE, holm


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The pretrained arm that validation prefers at one budget, beside the start that validation prefers."""

    labels: str
    arm: str
    ours: Estimate
    baseline: str
    """Start without the pretraining: scratch, or for an arm that continues from ImageNet the better of scratch and
    imagenet."""
    theirs: Estimate
    """Estimate of the baseline."""
    difference: Estimate
    """To the baseline."""
    baseline_backbone: str
    """Named in the sentence where it is not the arm's own; empty otherwise."""
    beside: dict[str, Estimate]
    """Differences to other baselines that the sentence states too, by their name in it."""
    p_value: float
    """Of the difference, corrected for all `num_compared`."""
    num_compared: int
    """Pretrained arms times budgets."""
    num_seeds: int
    """Of the arm or of the baseline, the larger. Where runs failed, fewer are in both, and all numbers are of those."""
    label_value: LabelValue | None
    """Value of the arm's labels in labels of the baseline; None where that has no curve."""

    @property
    def outcome(self) -> str:
        """Return `better`, `worse`, `open` (corrected p value above 5 %) or `unknown` (no interval over seeds)."""
        if self.difference.over != SEEDS:
            return "unknown"
        if self.p_value > 1.0 - CONFIDENCE:
            return "open"
        return "better" if ACCURACY.score(self.difference.mean) > 0 else "worse"


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """A pretrained arm at a budget and the start that validation prefers there."""

    arm: Cell
    baseline: Cell
    difference: Estimate
    preference: tuple[float, float]


def findings(results: Results) -> list[Finding]:
    """Compare the best arm of each budget with its start, in the table's order; validation chooses, never test."""
    compared = _compared(results)
    family = [item for items in compared.values() for item in items]
    p_values = holm([item.difference.p_value for item in family])
    corrected = dict(zip((item.arm for item in family), p_values, strict=True))
    found = []
    for labels, items in compared.items():
        best = max(items, key=lambda item: item.preference)
        arm, baseline = best.arm, best.baseline
        found.append(
            Finding(
                labels=labels,
                arm=arm[0],
                ours=results.estimate(arm, baseline),
                baseline=baseline[0],
                theirs=results.estimate(baseline, arm),
                difference=best.difference,
                baseline_backbone="" if baseline[1] == arm[1] else baseline[1],
                beside={
                    _name_beside(key, baseline): results.difference(arm, key)
                    for _, key in results.baselines(arm)
                    if key != baseline
                },
                p_value=corrected[arm],
                num_compared=len(family),
                num_seeds=max(len(results.test[arm]), len(results.test[baseline])),
                label_value=value_of(results, arm, baseline[:2]),
            )
        )
    return found


def _name_beside(key: Cell, baseline: Cell) -> str:
    if key[0] == "imagenet":
        return f"ImageNet weights ({key[1]})"
    return "scratch on its own backbone" if baseline[0] == "scratch" else "scratch"


def _compared(results: Results) -> dict[str, list[_Compared]]:
    """Compare pretrained arms by budget, without budgets that lack such an arm or a start to compare it with."""
    found: dict[str, list[_Compared]] = {}
    for labels in results.budgets:
        measured = sorted(key for key in results.test if key[2:] == (labels, "chosen", "accuracy"))
        preference = {key: _preference(results, key) for key in measured}
        arms = [key for key in measured if is_pretrained(key[0])]
        if not arms or not any(key[0] == "scratch" for key in measured):
            continue
        items = []
        for arm in arms:
            # Without pretraining, the better backbone would be used too, and ImageNet weights where this arm had them.
            starts = [key for key in measured if key[0] in starts_of(arm[0]) and results.share_seed(arm, key)]
            if starts:
                baseline = max(starts, key=preference.__getitem__)
                difference = results.difference(arm, baseline)
                items.append(_Compared(arm=arm, baseline=baseline, difference=difference, preference=preference[arm]))
        if items:
            found[labels] = items
    return found


def _preference(results: Results, cell: Cell) -> tuple[float, float]:
    """Score a chosen cell by its validation accuracy, then by its validation log-loss."""
    accuracy, log_loss = (
        metric.score(float(np.mean(list(results.validation[*cell[:4], metric.name].values()))))
        for metric in (ACCURACY, LOG_LOSS)
    )
    return accuracy, log_loss


def verdict(results: Results) -> str:
    """Generate the sentence."""
    found = findings(results)
    missing = _without_start(results, found)
    if not found and missing:
        return (
            "Nothing to hold the pretraining against: no start without it has finished with the same seeds. The table "
            "has what did."
        )
    if not found:
        return "No arm pretrained on these images, so this says nothing about pretraining; the table has the rest."
    # A run may have been trained on others.
    here = all(not item.arm.startswith(RUN) for item in found)
    answer = _answer(found, "pretraining on these images" if here else "pretraining")
    clauses = [_clause(item) for item in found]
    beside: dict[str, list[str]] = {}
    for item in found:
        for name, difference in item.beside.items():
            beside.setdefault(name, []).append(f"{_points(difference)} {_place(item)}")
    sentences = [f" Compared with {name}: {'; '.join(differences)}." for name, differences in beside.items()]
    sentences += [_value(item, item.label_value) for item in found if item.outcome == "better" and item.label_value]
    if any(item.difference.over == IMAGES for item in found):
        sentences.append(
            " One seed: intervals over test images only, by bootstrap; another draw of labels is not in them."
        )
    if missing:
        sentences.append(f" Without a start to hold it against, as runs failed: {', '.join(missing)}.")
    return f"{answer}: {'; '.join(clauses)}.{''.join(sentences)}"


def _answer(found: Sequence[Finding], subject: str) -> str:
    better, worse = ([item for item in found if item.outcome == outcome] for outcome in ("better", "worse"))
    if better and len(better) == len(found):
        return f"Yes, {subject} helps"
    if better:
        return f"{subject.capitalize()} helps {_budgets(better)}, not everywhere"
    if len(worse) == len(found):
        return f"No, {subject} does not help"
    if worse:
        return f"{subject.capitalize()} does not help {_budgets(worse)}, and is not shown to elsewhere"
    return f"These runs do not show that {subject} helps"


def _without_start(results: Results, found: Sequence[Finding]) -> list[str]:
    """List the budgets at which a pretrained arm has finished, and no start to compare it with."""
    compared = {item.labels for item in found}
    pretrained = dict.fromkeys(row.labels for row in results.rows if is_pretrained(row.arm) and row.split == "test")
    return [budget_title(labels, "label") for labels in pretrained if labels not in compared]


def _budgets(found: list[Finding]) -> str:
    shares = [percent for item in found if (percent := percent_of(item.labels)) is not None]
    numbers = [item.labels for item in found if item.labels != "all" and percent_of(item.labels) is None]
    parts = [f"at {budget_title(' and '.join(numbers), 'label')}"] if numbers else []
    parts += [f"at {' and '.join(shares)} of the labels"] if shares else []
    return " and ".join(parts + (["with all labels"] if any(item.labels == "all" for item in found) else []))


def _clause(item: Finding) -> str:
    numbers = f"{item.arm} {item.ours.mean:.1%}, {_baseline(item)} {item.theirs.mean:.1%}, {_points(item.difference)}"
    if item.difference.count < item.num_seeds:
        numbers += f"; {item.difference.count} of {item.num_seeds} seeds, as runs failed"
    if item.outcome == "unknown":
        return f"{_place(item)} there is no telling ({numbers})"
    if item.outcome == "open" and not item.difference.low <= 0.0 <= item.difference.high:
        corrected = f"corrected p {item.p_value:.3f}"
        among = f"among {item.num_compared} comparisons ({corrected}; {numbers})"
        return f"{_place(item)} the interval leaves out zero, which is no proof {among}"
    if item.outcome == "open":
        return f"{_place(item)} the difference is within the noise ({numbers})"
    return f"{_place(item)} {item.arm} is {'ahead' if item.outcome == 'better' else 'behind'} ({numbers})"


def _baseline(item: Finding) -> str:
    return f"{item.baseline} on {item.baseline_backbone}" if item.baseline_backbone else item.baseline


def _place(item: Finding) -> str:
    if item.labels == "all":
        return "with all labels"
    percent = percent_of(item.labels)
    return f"at {budget_title(item.labels, 'label')}" if percent is None else f"at {percent} of the labels"


def _value(item: Finding, value: LabelValue) -> str:
    """State the label value, unless the baseline has no larger budget."""
    if value.own >= value.most:
        return ""
    return f" {item.arm} {_place(item)} equals {_baseline(item)} with {value.text} labels a class."


def _points(difference: Estimate) -> str:
    """Format a difference in points with its interval."""
    if math.isinf(difference.low):
        why = "one seed" if difference.count < 2 else "all seeds agree"
        return f"{100 * difference.mean:+.1f} points, {why}, so no interval"
    over = " over test images" if difference.over == IMAGES else ""
    interval = f"95 % interval{over} {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    return f"{100 * difference.mean:+.1f} points, {interval}"
