"""The answer in a sentence, generated from the intervals: a difference whose interval holds zero is not called one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .statistics import Estimate, Row, baselines_of, by_cell, estimate, paired_difference, percent_of

BASELINES = ("scratch", "imagenet")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """At one budget: the pretraining that validation prefers, beside the scratch that validation prefers."""

    labels: str
    arm: str
    ours: Estimate
    scratch: Estimate
    difference: Estimate
    """To scratch."""
    to_imagenet: Estimate | None
    """The difference to ImageNet weights; None where they were not compared."""
    imagenet_backbone: str
    scratch_backbone: str
    """Named in the sentence where it is not the arm's own."""

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

        def preference(arm: str, backbone: str, labels: str = labels) -> tuple[float, float]:
            accuracy = estimate(list(validation[arm, backbone, labels, "chosen", "accuracy"].values())).mean
            return accuracy, -estimate(list(validation[arm, backbone, labels, "chosen", "log_loss"].values())).mean

        measured = sorted(key[:2] for key in test if key[2:] == (labels, "chosen", "accuracy"))
        arms = [pair for pair in measured if pair[0] not in BASELINES]
        scratches = [pair for pair in measured if pair[0] == "scratch"]
        if not arms or not scratches:
            continue
        arm, backbone = max(arms, key=lambda pair: preference(*pair))
        # Whoever has no pretraining would take the better backbone too.
        _, scratch_backbone = max(scratches, key=lambda pair: preference(*pair))
        ours = test[arm, backbone, labels, "chosen", "accuracy"]
        scratch = test["scratch", scratch_backbone, labels, "chosen", "accuracy"]
        compared = baselines_of((arm, backbone, labels, "chosen", "accuracy"), test)
        imagenet = next((key for _, key in compared if key[0] == "imagenet"), None)
        found.append(
            Finding(
                labels=labels,
                arm=arm,
                ours=estimate(list(ours.values())),
                scratch=estimate(list(scratch.values())),
                difference=paired_difference(ours, scratch),
                to_imagenet=paired_difference(ours, test[imagenet]) if imagenet is not None else None,
                imagenet_backbone=imagenet[1] if imagenet is not None else "",
                scratch_backbone="" if scratch_backbone == backbone else scratch_backbone,
            )
        )
    return found


def verdict(rows: Sequence[Row]) -> str:
    """The sentence."""
    found = findings(rows)
    if not found:
        return "No arm pretrained on these images, so this says nothing about pretraining; the table has the rest."
    groups = {outcome: [item for item in found if item.outcome == outcome] for outcome in ("better", "worse")}
    if groups["better"] and len(groups["better"]) == len(found):
        answer = "Yes, pretraining on these images helps"
    elif groups["better"]:
        answer = f"Pretraining on these images helps {_budgets(groups['better'])}, not everywhere"
    elif groups["worse"]:
        answer = "No, pretraining on these images does not help"
    else:
        answer = "These runs do not show that pretraining on these images helps"
    clauses = [_clause(item) for item in found]
    beside = [f"{_points(item.to_imagenet)} {_place(item)}" for item in found if item.to_imagenet is not None]
    where = found[0].imagenet_backbone
    imagenet = f" Compared with ImageNet weights ({where}): {'; '.join(beside)}." if beside else ""
    return f"{answer}: {'; '.join(clauses)}.{imagenet}"


def _budgets(found: list[Finding]) -> str:
    shares = [percent for item in found if (percent := percent_of(item.labels)) is not None]
    numbers = [item.labels for item in found if item.labels != "all" and percent_of(item.labels) is None]
    parts = [f"at {' and '.join(numbers)} labels a class"] if numbers else []
    parts += [f"at {' and '.join(shares)} of the labels"] if shares else []
    return " and ".join(parts + (["with all labels"] if any(item.labels == "all" for item in found) else []))


def _clause(item: Finding) -> str:
    scratch = f"scratch on {item.scratch_backbone}" if item.scratch_backbone else "scratch"
    numbers = f"{item.arm} {item.ours.mean:.1%}, {scratch} {item.scratch.mean:.1%}, {_points(item.difference)}"
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
