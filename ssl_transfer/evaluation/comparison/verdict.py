"""Generate the verdict: an answer about all pretrained arms, and the numbers that it rests on.

The answer follows `findings`. It is yes where an arm passes the correction. It is no only where every interval lies
below the gain that matters (`--worthwhile`), corrected for starts and budgets. Otherwise these runs do not decide. A
single pretrained network supports a sentence about that network, not about its method. With one seed there is an
interval over test images alone. It does not cover another draw of labels, so nothing is claimed from it.
"""

import itertools
import math
from collections.abc import Sequence

from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.models.init_names import is_pretrained, is_run

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
    "small": "interval below {worthwhile}",
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
        return ["No start without pretraining has finished with the same seeds.", "The table shows the finished runs."]
    if not found:
        return ["No arm was pretrained on these images: there is nothing to answer.", "The table shows all arms."]
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
    states = {labels: _state(items) for labels, items in by_budget.items()}
    yes, no, open_ = ([labels for labels in states if states[labels] == state] for state in ("yes", "no", "open"))
    better = {labels: [item for item in by_budget[labels] if item.outcome == "better"] for labels in yes}
    helps = f"{_subject(better)} helps"
    decides = _subject({labels: by_budget[labels] for labels in open_})
    denied = [item for labels in no for item in by_budget[labels]]
    none = ""
    if denied:
        noun = "network" if all(item.is_single for item in denied) else "arm"
        none = f"no pretrained {noun} gains {_worthwhile(denied[0])} or more"
    if not open_ and not no:
        return f"Yes: {helps}."
    if not open_ and not yes:
        return f"No: {none}{f' {_places(no)}' if len(no) == 1 else ' at any budget'}."
    if not yes and not no:
        return f"Whether {decides} helps cannot be told from these runs."
    texts = [f"{helps} {_places(yes)}"] if yes else []
    texts += [f"{_places(no)} {none}"] if no else []
    texts += [f"{_places(open_)} it cannot be told from these runs"] if open_ else []
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in texts)


def _subject(by_budget: dict[str, list[Finding]]) -> str:
    """Name the subject of a claim: pretraining, where every budget has an arm with several pretrainings."""
    found = [item for items in by_budget.values() for item in items]
    if all(any(not item.is_single for item in items) for items in by_budget.values()):
        # A run may have been trained on other images.
        here = not any(item.is_finished_run for item in found)
        return "pretraining on these images" if here else "pretraining"
    names = list(dict.fromkeys(item.arm for item in found if item.is_single))
    noun = "this pretrained network" if len(names) == 1 else "one of these pretrained networks"
    return f"{noun} ({', '.join(names)})"


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
            f"{title.format(worthwhile=_worthwhile(items[0]))}: {', '.join(map(_clause, arms))}"
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
        text = f"Validation prefers {_arm_name(best)}."
    else:
        text = f"Validation prefers {_start_name(best)}, and {_arm_name(best)} among the pretrained."
    if best.crossed is None or _bounds(best, best.crossed) == _bounds(best, best.difference):
        return text
    return f"{text} Over runs and test images the interval of {_arm_name(best)} is {_bounds(best, best.crossed)}."


def _clause(item: Finding) -> str:
    difference = item.difference
    notes = [f"{item.metric.difference(difference.mean)}{_interval(item)}"]
    if difference.count < item.num_seeds:
        notes.append(f"{difference.count} of {item.num_seeds} seeds, as runs failed")
    if math.isnan(item.p_value) and difference.over_runs:
        notes.append("no interval to every start")
    elif item.outcome == "open" and not difference.low <= 0.0 <= difference.high:
        notes.append(f"corrected p {item.p_value:.3f} among {counted(item.num_compared, 'comparison')}")
    return f"{_arm_name(item)} {item.metric.text(item.ours.mean)} ({'; '.join(notes)})"


def _interval(item: Finding) -> str:
    if not item.difference.over:
        return ", one seed" if item.difference.count < 2 else ", all runs agree"
    return f" {_bounds(item, item.difference)}"


def _bounds(item: Finding, estimate: Estimate) -> str:
    return f"[{item.metric.bare_difference(estimate.low)}, {item.metric.bare_difference(estimate.high)}]"


def _coverage(found: Sequence[Finding]) -> list[str]:
    """State the sample of the intervals."""
    texts = []
    counts = sorted({item.difference.pretrainings for item in found if item.difference.over == PRETRAININGS})
    if counts:
        number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        texts.append(
            f"Brackets: 95 % intervals over {number} pretrainings, each with its own transfer seeds, on these test "
            "images."
        )
    if any(item.difference.over_runs and item.is_single for item in found):
        texts.append(
            "Brackets of a single network: 95 % intervals over transfer seeds. Other pretrainings are not covered."
        )
    if any(item.difference.over == IMAGES for item in found):
        texts.append(
            "One seed: 95 % intervals over test images alone, by bootstrap. Another draw of labels is not covered."
        )
    if any(not item.difference.over and item.difference.count > 1 for item in found):
        texts.append("Equal results of all runs give no interval: they show neither a gain nor its absence.")
    if any(item.labels == "all" and item.difference.over_runs for item in found):
        texts.append("With all labels the seeds differ in initialisation and order alone.")
    return texts


def _single_networks(results: Results, found: Sequence[Finding]) -> list[str]:
    """State that nothing is claimed about the methods of single networks, and the cost of such a claim."""
    arms = {item.arm: all(one.is_single for one in found if one.arm == item.arm) for item in found}
    single = [arm for arm, is_single in arms.items() if is_single]
    given, here = ([arm for arm in single if is_run(arm) is wanted] for wanted in (True, False))
    texts = []
    if given:
        verb = "is one network" if len(given) == 1 else "are single networks"
        texts.append(f"{', '.join(given)} {verb}: this is no claim about the method.")
    if here:
        seeds, number = _seeds_for_claim(results.seeds)
        pretrainings = len(seeds) if number is None else number
        flags = f"--seeds {' '.join(map(str, seeds))} --pretrain-seeds {number}"
        texts.append(
            f"{', '.join(here)} {'was' if len(here) == 1 else 'were'} pretrained once: this is no claim about the "
            f"method. A claim takes {pretrainings} pretrainings: {flags}{_duration(results, pretrainings, len(seeds))}."
        )
    return texts


def _seeds_for_claim(seeds: Sequence[int]) -> tuple[list[int], int | None]:
    """Return `--seeds` and `--pretrain-seeds` for a claim about a method."""
    more = (seed for seed in range(len(seeds) + ENOUGH_PRETRAININGS) if seed not in seeds)
    wanted = [*seeds, *itertools.islice(more, max(0, ENOUGH_PRETRAININGS - len(seeds)))]
    if len({seed % ENOUGH_PRETRAININGS for seed in wanted}) == ENOUGH_PRETRAININGS:
        return wanted, ENOUGH_PRETRAININGS
    return wanted, None


def _power(results: Results, items: Sequence[Finding]) -> list[str]:
    """State the least gain of the best undecided arm that the runs of one budget can show, and what would show it.

    Both are of the difference to the preferred start alone.
    """
    undecided = [item for item in items if item.outcome == "open" and not math.isnan(item.p_value)]
    if not undecided:
        return []
    best = max(undecided, key=lambda item: item.gain[0])
    units, deviation = best.difference.units, best.difference.deviation
    is_nested = best.difference.pretrainings > 1
    unit, name = "pretraining" if is_nested else "seed", f"{_arm_name(best)} {_places([best.labels])}"
    least = least_difference(deviation, units, best.num_compared)
    lowest, highest = best.metric.limits
    if least < highest - lowest:
        text = (
            f"With {counted(units, unit)}, {name} must gain {_amount(best, least)} to be found in four of five "
            "comparisons."
        )
    else:
        text = f"{counted(units, unit).capitalize()} of {name} are too few to find any gain."
    observed, wanted = best.gain[0] > best.worthwhile, max(best.gain[0], best.worthwhile)
    needed = units_needed(deviation, wanted, best.num_compared)
    amount = f"A true gain of {_amount(best, wanted)}{', as observed,' if observed else ''} takes"
    if needed is None:
        return [f"{text} {amount} more than {MOST_UNITS:,} {unit}s."]
    if needed <= units:
        return [text]
    duration = _duration(results, needed if is_nested else 1, needed)
    return [f"{text} {amount} {counted(needed, unit)}{duration}."]


def _duration(results: Results, pretrainings: int, seeds: int) -> str:
    """Format the estimated time of more runs; empty where the costs are unknown."""
    minutes = extra_minutes(results, pretrainings=pretrainings, seeds=seeds)
    if minutes is None:
        return ""
    return f" (about {counted(max(1, round(minutes)), 'minute')} of runs more)"


def _label_value(item: Finding) -> str:
    """State the label value, unless the start has no larger budget."""
    value = item.label_value
    if value is None or value.own >= value.most:
        return ""
    return f"{_arm_name(item)} {_places([item.labels])} equals {_start_name(item)} with {value.text} labels a class."


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


def _worthwhile(item: Finding) -> str:
    """Format the gain that matters: `1 point`, `0.5 points`."""
    number = f"{item.worthwhile / item.metric.per_unit:g}"
    unit = item.metric.difference_unit
    return " ".join(filter(None, (number, unit.removesuffix("s") if number == "1" else unit)))
