"""Generate the verdict: an answer about all pretrained arms, and the numbers that it rests on.

The answer follows `findings`: yes where an arm passes the correction, no only where every interval lies below the gain
that matters (`--worthwhile`), and otherwise that these runs do not decide. A single pretrained network supports a
sentence about that network, not about its method. With one seed there is an interval over test images alone: it does
not cover another draw of labels, so nothing is claimed from it.
"""

from collections.abc import Sequence

from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.models.init_names import is_pretrained

from .estimates import IMAGES, PRETRAININGS, Estimate
from .findings import Finding, Outcome, findings
from .label_budgets import budget_title, percent_of
from .results import Results
from .statistical_power import MOST_UNITS, extra_minutes, least_difference, units_needed

ENOUGH_PRETRAININGS = 5
"""Pretrainings that a claim about a method should rest on; docs/statistics.md has the power of fewer."""
_TITLES: dict[Outcome, str] = {
    "better": "better",
    "worse": "worse",
    "small": "gain below {worthwhile}",
    "open": "not decided",
    "unknown": "no interval over runs",
}


def verdict(results: Results) -> str:
    """Generate the verdict as one text."""
    return " ".join(sentences(results))


def sentences(results: Results) -> list[str]:
    """Generate the verdict: the answer, then a sentence for each budget, then coverage and remedies."""
    found = findings(results)
    missing = _without_start(results, found)
    if not found and missing:
        return [
            "There is nothing to compare the pretraining with: no start without it has finished with the same seeds.",
            "The table has the finished runs.",
        ]
    if not found:
        return ["No arm was pretrained on these images, so there is no answer about pretraining.", "The table has all."]
    budgets = list(dict.fromkeys(item.labels for item in found))
    by_budget = {labels: [item for item in found if item.labels == labels] for labels in budgets}
    texts = [
        _answer(by_budget),
        *(_budget_sentence(items) for items in by_budget.values()),
        *_coverage(found),
        *_single_networks(results, found),
        *(sentence for items in by_budget.values() for sentence in _power(results, items)),
        *(_label_value(item) for item in found if item.is_preferred and item.outcome == "better"),
        *([f"Without a finished start to compare with: {', '.join(missing)}."] if missing else []),
    ]
    return list(filter(None, texts))


def _answer(by_budget: dict[str, list[Finding]]) -> str:
    found = [item for items in by_budget.values() for item in items]
    subject, helps, gains = _subject(found)
    states = {labels: _state(items) for labels, items in by_budget.items()}
    yes, no, open_ = ([labels for labels in states if states[labels] == state] for state in ("yes", "no", "open"))
    little = f"less than {_amount(found[0], found[0].worthwhile)}"
    if not open_ and not no:
        return f"Yes: {subject} {helps}."
    if not open_ and not yes:
        return f"No: {subject} {gains} {little}{f' {_places(no)}' if len(no) == 1 else ' at every budget'}."
    if not yes and not no:
        return f"Whether {subject} {helps} cannot be told from these runs."
    parts = [f"{helps} {_places(yes)}"] if yes else []
    parts += [f"{gains} {little} {_places(no)}"] if no else []
    undecided = f"; {_places(open_)} it cannot be told from these runs" if open_ else ""
    return f"{subject[0].upper()}{subject[1:]} {', and '.join(parts)}{undecided}."


def _subject(found: Sequence[Finding]) -> tuple[str, str, str]:
    """Return the subject of the answer and its verbs `help` and `gain`."""
    if not all(item.is_single for item in found):
        # A run may have been trained on other images.
        here = not any(item.is_finished_run for item in found)
        return ("pretraining on these images" if here else "pretraining"), "helps", "gains"
    if len({(item.arm, item.backbone) for item in found}) == 1:
        return f"this pretrained network ({found[0].arm})", "helps", "gains"
    return "one of these pretrained networks", "helps", "gains"


def _state(items: Sequence[Finding]) -> str:
    """Return the answer at one budget: `yes`, `no` or `open`."""
    outcomes = {item.outcome for item in items}
    if "better" in outcomes:
        return "yes"
    return "no" if outcomes <= {"worse", "small"} else "open"


def _budget_sentence(items: Sequence[Finding]) -> str:
    """List all arms of one budget by outcome, with the choice of validation."""
    starts = list(dict.fromkeys((item.start, item.start_backbone) for item in items))
    parts = []
    for start in starts:
        own = [item for item in items if (item.start, item.start_backbone) == start]
        groups = [
            f"{title.format(worthwhile=_amount(items[0], items[0].worthwhile))}: {', '.join(map(_clause, arms))}"
            for outcome, title in _TITLES.items()
            if (arms := [item for item in own if item.outcome == outcome])
        ]
        theirs = own[0].metric.text(own[0].theirs.mean)
        parts.append(f"against {_start_name(own[0])} ({theirs}), {'; '.join(groups)}")
    place = _places([items[0].labels])
    return f"{place[0].upper()}{place[1:]}, {'; '.join(parts)}. {_preference(items)}"


def _preference(items: Sequence[Finding]) -> str:
    best = next(item for item in items if item.is_preferred)
    if best.is_taken:
        text = f"Validation prefers {best.arm}"
    else:
        text = f"Validation prefers {_start_name(best)}, and {best.arm} among the pretrained"
    if best.crossed is None:
        return f"{text}."
    return f"{text}; with test images as a sample too, the interval of {best.arm} is {_bounds(best, best.crossed)}."


def _clause(item: Finding) -> str:
    difference = item.difference
    notes = [f"{item.metric.difference(difference.mean)}{_interval(item)}"]
    if difference.count < item.num_seeds:
        notes.append(f"{difference.count} of {item.num_seeds} seeds, as runs failed")
    if item.outcome == "open" and not difference.low <= 0.0 <= difference.high:
        notes.append(f"corrected p {item.p_value:.3f} among {counted(item.num_compared, 'comparison')}")
    return f"{_arm_name(item)} {item.metric.text(item.ours.mean)} ({'; '.join(notes)})"


def _interval(item: Finding) -> str:
    if not item.difference.over:
        return ", one seed" if item.difference.count < 2 else ", all seeds agree"
    return f" {_bounds(item, item.difference)}"


def _bounds(item: Finding, estimate: Estimate) -> str:
    return f"[{item.metric.bare_difference(estimate.low)}, {item.metric.bare_difference(estimate.high)}]"


def _coverage(found: Sequence[Finding]) -> list[str]:
    """State the sample of the intervals."""
    texts = []
    nested = [item.difference for item in found if item.difference.over == PRETRAININGS]
    if nested:
        count = min(one.pretrainings for one in nested)
        texts.append(
            f"Brackets: 95 % intervals over {count} pretrainings, each with its own draws of labels, on these test "
            "images."
        )
    if any(item.difference.over_runs and item.is_single for item in found):
        texts.append("Brackets of a single network: 95 % intervals over draws of labels, not over other pretrainings.")
    if any(item.difference.over == IMAGES for item in found):
        texts.append(
            "One seed: 95 % intervals over test images alone, by bootstrap; another draw of labels is not covered."
        )
    if any(not item.difference.over and item.difference.count > 1 for item in found):
        texts.append("Where all seeds agree there is no spread to judge by: neither evidence for nor against.")
    return texts


def _single_networks(results: Results, found: Sequence[Finding]) -> list[str]:
    """State for single networks that nothing is claimed about the method, and the cost of such a claim."""
    given = list(dict.fromkeys(item.arm for item in found if item.is_single and item.is_finished_run))
    here = list(dict.fromkeys(item.arm for item in found if item.is_single and not item.is_finished_run))
    texts = [f"{', '.join(given)}: single networks, so nothing is claimed about their methods."] if given else []
    if here:
        seeds = [*results.seeds, *(seed for seed in range(ENOUGH_PRETRAININGS) if seed not in results.seeds)]
        seeds = seeds[: max(ENOUGH_PRETRAININGS, len(results.seeds))]
        flags = f"--seeds {' '.join(map(str, seeds))} --pretrain-seeds {len(seeds)}"
        texts.append(
            f"{', '.join(here)}: one pretraining each, so nothing is claimed about the method. That takes "
            f"{ENOUGH_PRETRAININGS} pretrainings or more: {flags}{_duration(results, len(seeds), len(seeds))}."
        )
    return texts


def _power(results: Results, items: Sequence[Finding]) -> list[str]:
    """State the least gain of the best undecided arm that the runs of one budget can show, and what would show it."""
    undecided = [item for item in items if item.outcome == "open"]
    if not undecided:
        return []
    best = max(undecided, key=lambda item: item.gain[0])
    units, deviation = best.difference.units, best.difference.deviation
    is_nested = best.difference.pretrainings > 1
    runs, place = counted(units, "pretraining" if is_nested else "seed"), _places([best.labels])
    least = least_difference(deviation, units, best.num_compared)
    lowest, highest = best.metric.limits
    if least < highest - lowest:
        text = (
            f"{runs[0].upper()}{runs[1:]} of {_arm_name(best)} {place} would show a true gain of "
            f"{_amount(best, least)} in four of five comparisons"
        )
    else:
        text = f"{runs[0].upper()}{runs[1:]} of {_arm_name(best)} {place} are too few to show any gain"
    wanted = max(best.gain[0], best.worthwhile)
    needed = units_needed(deviation, wanted, best.num_compared)
    if needed is None:
        return [f"{text}; {_amount(best, wanted)} would take more than {MOST_UNITS:,}."]
    if needed <= units:
        return [f"{text}."]
    duration = _duration(results, needed if is_nested else 1, needed)
    return [f"{text}; {_amount(best, wanted)} would take {needed}{duration}."]


def _duration(results: Results, pretrainings: int, seeds: int) -> str:
    """Format the estimated time of more runs; empty where the costs are unknown."""
    minutes = extra_minutes(results, pretrainings=pretrainings, seeds=seeds)
    if minutes is None:
        return ""
    return f" (about {counted(max(1, round(minutes)), 'minute')} more)"


def _label_value(item: Finding) -> str:
    """State the label value, unless the start has no larger budget."""
    value = item.label_value
    if value is None or value.own >= value.most:
        return ""
    return f"{item.arm} {_places([item.labels])} equals {_start_name(item)} with {value.text} labels a class."


def _without_start(results: Results, found: Sequence[Finding]) -> list[str]:
    """List the budgets at which a pretrained arm has finished, and no start to compare it with."""
    compared = {item.labels for item in found}
    pretrained = dict.fromkeys(row.labels for row in results.rows if is_pretrained(row.arm) and row.split == "test")
    return [budget_title(labels, "label") for labels in pretrained if labels not in compared]


def _places(budgets: Sequence[str]) -> str:
    shares = [percent for labels in budgets if (percent := percent_of(labels)) is not None]
    numbers = [labels for labels in budgets if labels != "all" and percent_of(labels) is None]
    parts = [f"at {budget_title(' and '.join(numbers), 'label')}"] if numbers else []
    parts += [f"at {' and '.join(shares)} of the labels"] if shares else []
    return " and ".join(parts + (["with all labels"] if "all" in budgets else []))


def _arm_name(item: Finding) -> str:
    return item.arm if item.backbone == item.start_backbone else f"{item.arm} on {item.backbone}"


def _start_name(item: Finding) -> str:
    return item.start if item.backbone == item.start_backbone else f"{item.start} on {item.start_backbone}"


def _amount(item: Finding, value: float) -> str:
    """Format an amount of the metric without a sign: `1.0 points`."""
    return item.metric.difference(value).lstrip("+")
