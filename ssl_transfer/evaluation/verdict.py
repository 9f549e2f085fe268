"""The answer in a sentence, generated from the intervals: a difference whose interval holds zero is not called one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .statistics import (
    CONTINUED,
    RUN,
    TIMM,
    Estimate,
    Row,
    baselines_of,
    by_cell,
    estimate,
    paired_difference,
    percent_of,
)

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

    @property
    def outcome(self) -> str:
        """`better`, `worse`, `open` where the interval holds zero, or `unknown` where there is no interval."""
        if math.isinf(self.difference.low):
            return "unknown"
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "open"


def findings(rows: Sequence[Row]) -> list[Finding]:
    """One finding for each budget, in the order of the rows. The best arm is chosen on validation, never on test."""
    validation, test = by_cell(rows, split="validation"), by_cell(rows, split="test")
    found = []
    for labels in dict.fromkeys(row.labels for row in rows):

        def preference(pair: tuple[str, str], labels: str = labels) -> tuple[float, float]:
            accuracy = estimate(list(validation[*pair, labels, "chosen", "accuracy"].values())).mean
            return accuracy, -estimate(list(validation[*pair, labels, "chosen", "log_loss"].values())).mean

        measured = sorted(key[:2] for key in test if key[2:] == (labels, "chosen", "accuracy"))
        # timm's weights know nothing of these images: they stand in the table.
        arms = [pair for pair in measured if pair[0] not in BASELINES and not pair[0].startswith(TIMM)]
        if not arms or not any(pair[0] == "scratch" for pair in measured):
            continue
        arm, backbone = max(arms, key=preference)
        # Whoever has no pretraining would take the better backbone too, and ImageNet weights where this arm had them.
        starts = BASELINES if arm.startswith(CONTINUED) else ("scratch",)
        baseline, on = max((pair for pair in measured if pair[0] in starts), key=preference)
        ours = test[arm, backbone, labels, "chosen", "accuracy"]
        theirs = test[baseline, on, labels, "chosen", "accuracy"]
        compared = baselines_of((arm, backbone, labels, "chosen", "accuracy"), test)
        found.append(
            Finding(
                labels=labels,
                arm=arm,
                ours=estimate(list(ours.values())),
                baseline=baseline,
                theirs=estimate(list(theirs.values())),
                difference=paired_difference(ours, theirs),
                baseline_backbone="" if on == backbone else on,
                beside={
                    f"ImageNet weights ({key[1]})" if key[0] == "imagenet" else "scratch": paired_difference(
                        ours, test[key]
                    )
                    for _, key in compared
                    if key[0] != baseline
                },
            )
        )
    return found


def verdict(rows: Sequence[Row]) -> str:
    """The sentence."""
    found = findings(rows)
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
    elif groups["worse"]:
        answer = f"No, {subject} does not help"
    else:
        answer = f"These runs do not show that {subject} helps"
    clauses = [_clause(item) for item in found]
    beside: dict[str, list[str]] = {}
    for item in found:
        for name, difference in item.beside.items():
            beside.setdefault(name, []).append(f"{_points(difference)} {_place(item)}")
    sentences = [f" Compared with {name}: {'; '.join(differences)}." for name, differences in beside.items()]
    return f"{answer}: {'; '.join(clauses)}.{''.join(sentences)}"


def _budgets(found: list[Finding]) -> str:
    shares = [percent for item in found if (percent := percent_of(item.labels)) is not None]
    numbers = [item.labels for item in found if item.labels != "all" and percent_of(item.labels) is None]
    parts = [f"at {' and '.join(numbers)} labels a class"] if numbers else []
    parts += [f"at {' and '.join(shares)} of the labels"] if shares else []
    return " and ".join(parts + (["with all labels"] if any(item.labels == "all" for item in found) else []))


def _clause(item: Finding) -> str:
    baseline = f"{item.baseline} on {item.baseline_backbone}" if item.baseline_backbone else item.baseline
    numbers = f"{item.arm} {item.ours.mean:.1%}, {baseline} {item.theirs.mean:.1%}, {_points(item.difference)}"
    if item.outcome == "unknown":
        return f"{_place(item)} there is no telling ({numbers})"
    if item.outcome == "open":
        return f"{_place(item)} the difference is within the noise ({numbers})"
    return f"{_place(item)} {item.arm} is {'ahead' if item.outcome == 'better' else 'behind'} ({numbers})"


def _place(item: Finding) -> str:
    if item.labels == "all":
        return "with all labels"
    percent = percent_of(item.labels)
    return f"at {item.labels} labels a class" if percent is None else f"at {percent} of the labels"


def _points(difference: Estimate) -> str:
    """A difference in points with its interval."""
    if math.isinf(difference.low):
        why = "one seed" if difference.count < 2 else "all seeds agree"
        return f"{100 * difference.mean:+.1f} points, {why}, so no interval"
    interval = f"95 % interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    return f"{100 * difference.mean:+.1f} points, {interval}"
