"""The answer in a sentence, generated from the intervals: a difference whose interval holds zero is not called one.

The sentence as a whole is one claim, and it has many chances to be wrong: at each budget it names the best of the
pretrained arms, and validation that chose it shares its luck (the same backbone, the same labels) with the test that
follows. So `better` and `worse` go by p values that are corrected (Holm 1979) for every pretrained arm at every budget,
each held against the start that validation prefers there: among equal arms the sentence claims a gain in at most 5 % of
comparisons, however arms, budgets and validation hang together. Which start it is held against is validation's choice
too, and that is not corrected for: of several starts the luckiest may be chosen, so that `worse` comes a little too
often where there are many (docs/decisions.md). The plain 95 % intervals stand beside it for each
difference by itself; where one leaves out zero and the corrected p value does not reach 5 %, the sentence says so and
claims nothing. With one arm at one budget both agree. docs/decisions.md has the rates of both rules, simulated, and
what the correction costs: with few seeds much, which more seeds buy back.

With one seed there is an interval over test images alone. It is given, but says nothing of another draw of labels, so
the sentence claims nothing from it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssl_transfer.evaluation.comparison.estimates import (
    IMAGES,
    SEEDS,
    Cell,
    Cells,
    Estimate,
    Hits,
    Row,
    baselines_of,
    budget_title,
    by_cell,
    difference_of,
    estimate_of,
    percent_of,
)
from ssl_transfer.models.init_names import CONTINUED, RUN, TIMM

from .label_efficiency import LabelValue, value_of
from .significance import CONFIDENCE, holm

BASELINES = ("scratch", "imagenet")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """At one budget: the pretraining that validation prefers, beside the start without it that validation prefers."""

    labels: str
    arm: str
    ours: Estimate
    baseline: str
    """What the difference is to: scratch, or the better of scratch and imagenet for an arm that goes on from it."""
    theirs: Estimate
    """Of the baseline."""
    difference: Estimate
    """To the baseline."""
    baseline_backbone: str
    """Named in the sentence where it is not the arm's own; empty otherwise."""
    beside: dict[str, Estimate]
    """The differences to other baselines that the sentence names too, by what it calls them."""
    p_value: float
    """Of the difference, corrected for all `num_compared`."""
    num_compared: int
    """Pretrained arms times budgets."""
    num_seeds: int
    """Of the arm or of the baseline, whichever has more; where runs failed, fewer are in both, and all numbers here are
    of those."""
    label_value: LabelValue | None
    """What the arm's labels are worth in labels of the baseline; None where that has no curve."""

    @property
    def outcome(self) -> str:
        """`better`, `worse`, `open` where the corrected p value is above 5 %, or `unknown` where no seeds tell."""
        if self.difference.over != SEEDS:
            return "unknown"
        if self.p_value > 1.0 - CONFIDENCE:
            return "open"
        return "better" if self.difference.mean > 0 else "worse"


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A pretrained arm at a budget, held against the start that validation prefers there."""

    arm: Cell
    baseline: Cell
    difference: Estimate
    preference: tuple[float, float]


def findings(
    rows: Sequence[Row], hits: Hits | None = None, images_per_class: Mapping[str, float] | None = None
) -> list[Finding]:
    """One finding for each budget, in the order of the rows. The best arm is chosen on validation, never on test.

    Args:
        rows: of `results.csv`.
        hits: for the intervals of one seed.
        images_per_class: as in `label_value.value_of`; without them there are no label values.
    """
    test, hits = by_cell(rows, split="test"), hits or {}
    held = _held(by_cell(rows, split="validation"), test, hits, list(dict.fromkeys(row.labels for row in rows)))
    family = [item for items in held.values() for item in items]
    corrected = dict(
        zip((item.arm for item in family), holm([item.difference.p_value for item in family]), strict=True)
    )
    found = []
    for labels, items in held.items():
        best = max(items, key=lambda item: item.preference)
        arm, baseline = best.arm, best.baseline
        found.append(
            Finding(
                labels=labels,
                arm=arm[0],
                ours=estimate_of(arm, test, hits, baseline),
                baseline=baseline[0],
                theirs=estimate_of(baseline, test, hits, arm),
                difference=best.difference,
                baseline_backbone="" if baseline[1] == arm[1] else baseline[1],
                beside={
                    _name_beside(key, baseline): difference_of(arm, key, test, hits)
                    for _, key in baselines_of(arm, test)
                    if key != baseline
                },
                p_value=corrected[arm],
                num_compared=len(family),
                num_seeds=max(len(test[arm]), len(test[baseline])),
                label_value=value_of(arm, baseline[:2], test, hits, images_per_class or {}),
            )
        )
    return found


def _name_beside(key: Cell, baseline: Cell) -> str:
    if key[0] == "imagenet":
        return f"ImageNet weights ({key[1]})"
    return "scratch on its own backbone" if baseline[0] == "scratch" else "scratch"


def _held(validation: Cells, test: Cells, hits: Hits, budgets: Sequence[str]) -> dict[str, list[_Held]]:
    """By budget; without those that lack a pretrained arm, or a start to hold it against."""
    found: dict[str, list[_Held]] = {}
    for labels in budgets:
        measured = sorted(key for key in test if key[2:] == (labels, "chosen", "accuracy"))
        preference = {
            key: (
                float(np.mean(list(validation[key].values()))),
                -float(np.mean(list(validation[*key[:4], "log_loss"].values()))),
            )
            for key in measured
        }
        # timm's weights know nothing of these images: they stand in the table.
        arms = [key for key in measured if key[0] not in BASELINES and not key[0].startswith(TIMM)]
        if not arms or not any(key[0] == "scratch" for key in measured):
            continue
        items = []
        for arm in arms:
            # Whoever has no pretraining would take the better backbone too, and ImageNet weights where this arm had
            # them.
            starts = BASELINES if arm[0].startswith(CONTINUED) else ("scratch",)
            # Where runs failed, a start may have no seed in common with the arm.
            paired = [key for key in measured if key[0] in starts and test[arm].keys() & test[key].keys()]
            if paired:
                baseline = max(paired, key=preference.__getitem__)
                difference = difference_of(arm, baseline, test, hits)
                items.append(_Held(arm=arm, baseline=baseline, difference=difference, preference=preference[arm]))
        if items:
            found[labels] = items
    return found


def verdict(rows: Sequence[Row], hits: Hits | None = None, images_per_class: Mapping[str, float] | None = None) -> str:
    """The sentence; arguments as in `findings`."""
    found = findings(rows, hits, images_per_class)
    missing = _unheld(rows, found)
    if not found and missing:
        return (
            "Nothing to hold the pretraining against: no start without it has finished with the same seeds. The table "
            "has what did."
        )
    if not found:
        return "No arm pretrained on these images, so this says nothing about pretraining; the table has the rest."
    # A run may have been trained on others.
    here = all(not item.arm.startswith(RUN) for item in found)
    subject = "pretraining on these images" if here else "pretraining"
    groups = {outcome: [item for item in found if item.outcome == outcome] for outcome in ("better", "worse")}
    if groups["better"] and len(groups["better"]) == len(found):
        answer = f"Yes, {subject} helps"
    elif groups["better"]:
        answer = f"{subject.capitalize()} helps {_budgets(groups['better'])}, not everywhere"
    elif len(groups["worse"]) == len(found):
        answer = f"No, {subject} does not help"
    elif groups["worse"]:
        answer = f"{subject.capitalize()} does not help {_budgets(groups['worse'])}, and is not shown to elsewhere"
    else:
        answer = f"These runs do not show that {subject} helps"
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


def _unheld(rows: Sequence[Row], found: Sequence[Finding]) -> list[str]:
    """The budgets at which a pretrained arm has finished and nothing that it could be held against."""
    held = {item.labels for item in found}
    pretrained = dict.fromkeys(
        row.labels for row in rows if row.arm not in BASELINES and not row.arm.startswith(TIMM) and row.split == "test"
    )
    return [budget_title(labels, "label") for labels in pretrained if labels not in held]


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
    """What its labels are worth, unless the baseline has no larger budget that they could be worth."""
    if value.own >= value.most:
        return ""
    return f" {item.arm} {_place(item)} equals {_baseline(item)} with {value.text} labels a class."


def _points(difference: Estimate) -> str:
    """A difference in points with its interval."""
    if math.isinf(difference.low):
        why = "one seed" if difference.count < 2 else "all seeds agree"
        return f"{100 * difference.mean:+.1f} points, {why}, so no interval"
    over = " over test images" if difference.over == IMAGES else ""
    interval = f"95 % interval{over} {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    return f"{100 * difference.mean:+.1f} points, {interval}"
