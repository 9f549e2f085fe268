"""Simulate comparisons with known truth: false claims, coverage, power and cost of the statistics of a comparison.

    python scripts/simulate_statistics.py

Print one Markdown table a figure, in percent. Claims come from `findings`, intervals from the functions that write the
tables and the verdict. `simulated_comparisons.py` has the model; docs/statistics.md has the output and explains it.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from simulated_comparisons import (
    EXACT,
    NUM_TEST,
    WORTHWHILE,
    Design,
    crossed_coverage,
    image_coverage,
    image_coverage_of_draws,
    label_value_coverage,
    least_differences,
    pooled_rates,
    rates,
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A table of the output: one line a case."""

    title: str
    columns: tuple[str, ...]
    cases: Sequence[Any]
    line: Callable[[Any, int], list[str]]
    """Of a case and the number of comparisons."""


def _percent(*shares: float) -> list[str]:
    return [f"{100.0 * share:.1f}" for share in shares]


def _runs(case: tuple[int, int, float], comparisons: int) -> list[str]:
    seeds, pretrainings, effect = case
    found = rates(Design(seeds=seeds, pretrainings=pretrainings, effect=effect), comparisons)
    shown = _percent(found.false_better, found.false_worse, found.coverage)
    return [
        f"{seeds}/{pretrainings}",
        f"{effect:g}",
        *shown,
        *_percent(found.old_better, found.old_worse, found.old_coverage),
    ]


def _family(design: Design, comparisons: int) -> list[str]:
    # A large family takes 20 ms a comparison.
    with_costs = design.arms * design.budgets == 12 and not design.correlation
    found = rates(design, comparisons if design.arms * design.budgets < 12 else comparisons // 2, with_costs=with_costs)
    case = [f"{design.arms}", f"{design.budgets}", f"{design.seeds}/{design.pretrainings}", f"{design.correlation:g}"]
    shown = _percent(found.false_better, found.false_worse, found.coverage)
    return [*case, *shown, *(_percent(found.false_cost) if with_costs else ["-"])]


def _starts(design: Design, comparisons: int) -> list[str]:
    found = rates(design, comparisons)
    return [
        f"{design.starts}",
        f"{design.arms}",
        f"{design.seeds}/{design.pretrainings}",
        *_percent(found.false_better, found.false_worse),
    ]


def _no(design: Design, comparisons: int) -> list[str]:
    found = rates(design, comparisons)
    case = [
        f"{design.arms}",
        f"{design.budgets}",
        f"{design.starts}",
        f"{design.seeds}/{design.pretrainings}",
        f"{design.effect:g}",
    ]
    nothing = rates(replace(design, gain=0.0), comparisons // 4)
    return [*case, *_percent(found.false_no, found.false_no_somewhere, nothing.no)]


def _power(case: tuple[int, int], comparisons: int) -> list[str]:
    design = Design(seeds=case[0], pretrainings=case[1])
    found = [rates(replace(design, gain=gain), comparisons // 2) for gain in (0.0, 0.02, 0.04, 0.06)]
    ours, theirs = _percent(*(one.better for one in found[1:])), _percent(*(one.old_better for one in found[1:]))
    false = _percent(found[0].old_better + found[0].old_worse)
    return [f"{case[0]}/{case[1]}", *ours, *theirs, *false]


def _cost(case: tuple[int, int], comparisons: int) -> list[str]:
    seeds, pretrainings = case
    costs = [f"{seeds + price * pretrainings}" for price in (5, 20)]
    designs = [Design(seeds=seeds, pretrainings=pretrainings, effect=effect) for effect in (0.5, 1.0, 2.0)]
    found = [least_differences(design, comparisons) for design in designs]
    shown = [*(expected for expected, _ in found), found[1][1]]
    return [f"{seeds}/{pretrainings}", *costs, *(f"{100.0 * least:.1f}" for least in shown)]


def _pooling(case: tuple[int, float, bool], comparisons: int) -> list[str]:
    units, wide, pooled = case
    design = Design(seeds=units, pretrainings=units, arms=4)
    found = pooled_rates(design, comparisons, wide=wide, pooled=pooled, gain=0.04)
    return [f"{units}/{units}", f"{wide:g}", "pooled" if pooled else "of each arm", *_percent(*found)]


def _crossed(case: tuple[int, int, float], comparisons: int) -> list[str]:
    seeds, pretrainings, effect = case
    both, runs, ratio = crossed_coverage(Design(seeds=seeds, pretrainings=pretrainings, effect=effect), comparisons)
    return [f"{seeds}/{pretrainings}", f"{effect:g}", *_percent(both, runs), f"{ratio:.2f}"]


def _images(case: tuple[int, float, float] | None, comparisons: int) -> list[str]:
    count = comparisons // 2
    if case is None:
        return ["another label draw", f"{NUM_TEST}", *_percent(image_coverage_of_draws(count))]
    num_images, ours, theirs = case
    return [
        f"{ours:.0%} and {theirs:.0%}",
        f"{num_images:,}",
        *_percent(image_coverage(num_images, ours, theirs, count)),
    ]


def _label_value(case: tuple[int, int], comparisons: int) -> list[str]:
    design = Design(seeds=case[0], pretrainings=case[1])
    held, _ = label_value_coverage(design, comparisons)
    # A bootstrap of 499 draws takes 0.1 s a comparison.
    again = label_value_coverage(design, min(comparisons, 100), resamples=499)[1] if case in ((3, 3), (5, 5)) else None
    return [f"{case[0]}/{case[1]}", *_percent(held), *(["-"] if again is None else _percent(again))]


_UNIT = "seeds/pretrainings"
_GRID = ((3, 1), (3, 2), (3, 3), (5, 1), (5, 2), (5, 3), (5, 5), (10, 1), (10, 2), (10, 3), (10, 5), (10, 10), (20, 5))
FIGURES = {
    "runs": Figure(
        title="One arm that gains nothing, one budget. P = 1: false and covered for that network",
        columns=(_UNIT, "k", "better", "worse", "coverage", "old rule: better", "old: worse", "old: coverage"),
        cases=[(*units, effect) for effect in (0.0, 0.5, 1.0, 2.0) for units in _GRID],
        line=_runs,
    ),
    "family": Figure(
        title="Arms that gain nothing, k = 1 (12 claims and more: half as many comparisons)",
        columns=(
            "arms",
            "budgets",
            _UNIT,
            "correlation",
            "better",
            "worse",
            "coverage",
            "costs",
        ),
        cases=[
            Design(arms=2),
            Design(arms=4),
            Design(arms=4, correlation=0.7),
            Design(arms=8),
            Design(arms=8, correlation=0.7),
            Design(budgets=3),
            Design(arms=4, budgets=3),
            Design(arms=4, budgets=3, correlation=0.7),
            Design(arms=4, budgets=3, pretrainings=2),
            Design(arms=4, budgets=3, pretrainings=1),
            Design(arms=8, budgets=3),
        ],
        line=_family,
    ),
    "starts": Figure(
        title="Arms that equal every start, of which validation, as exact as test, prefers one; one budget, k = 1",
        columns=("starts", "arms", _UNIT, "better", "worse"),
        cases=[
            Design(starts=starts, arms=arms, seeds=seeds, pretrainings=seeds, num_validation=EXACT)
            for starts, arms, seeds in ((3, 1, 5), (6, 1, 3), (6, 1, 5), (6, 4, 5))
        ],
        line=_starts,
    ),
    "no": Figure(
        title="Arms that all gain exactly what matters (1 point): the answer is no. Last column: arms that gain 0",
        columns=(
            "arms",
            "budgets",
            "starts",
            _UNIT,
            "k",
            "no at every budget",
            "no at some budget",
            "no, gain 0 (a quarter)",
        ),
        cases=[
            Design(gain=WORTHWHILE),
            Design(gain=WORTHWHILE, seeds=3, pretrainings=3),
            Design(gain=WORTHWHILE, pretrainings=1, effect=0.0),
            Design(gain=WORTHWHILE, pretrainings=2),
            Design(gain=WORTHWHILE, seeds=20, pretrainings=20),
            Design(gain=WORTHWHILE, arms=4),
            Design(gain=WORTHWHILE, budgets=3),
            Design(gain=WORTHWHILE, starts=6, num_validation=EXACT),
            Design(gain=WORTHWHILE, starts=6, num_validation=EXACT, budgets=3),
        ],
        line=_no,
    ),
    "power": Figure(
        title="One arm, one budget, k = 1: better, by the true gain in points (half as many comparisons)",
        columns=(_UNIT, "2", "4", "6", "old rule: 2", "old: 4", "old: 6", "old: false claims"),
        cases=[(3, 1), (3, 3), (5, 1), (5, 2), (5, 5), (10, 2), (10, 5), (10, 10)],
        line=_power,
    ),
    "cost": Figure(
        title="Least gain in points that four of five comparisons show, one arm at one budget; a pretraining costs c "
        "transfer runs",
        columns=(_UNIT, "cost, c = 5", "cost, c = 20", "k = 0.5", "k = 1", "k = 2", "k = 1, median of estimates"),
        cases=[(3, 1), (3, 3), (5, 1), (5, 2), (5, 5), (10, 5), (10, 10)],
        line=_cost,
    ),
    "pooling": Figure(
        title="Not taken: one variance for four arms (k = 1); the first has so many times the pretraining deviation",
        columns=(_UNIT, "times", "variance", "false claims", "coverage of the first", "power at 4 points"),
        cases=[(units, wide, pooled) for units in (3, 5) for wide in (1.0, 3.0) for pooled in (False, True)],
        line=_pooling,
    ),
    "crossed": Figure(
        title="Coverage of the gain over all images, 450 test images",
        columns=(_UNIT, "k", "over runs and images", "over runs alone", "ratio of lengths"),
        cases=[
            *((3, 1, 0.0), (5, 1, 0.0), (3, 1, 1.0), (5, 1, 1.0)),
            *((3, 3, 1.0), (5, 2, 1.0), (5, 3, 1.0), (5, 5, 1.0), (5, 5, 2.0), (10, 5, 1.0), (10, 10, 1.0)),
            *((3, 3, 4.0), (5, 2, 4.0)),
        ],
        line=_crossed,
    ),
    "images": Figure(
        title="One seed: coverage of the interval over test images (half as many comparisons)",
        columns=("correct for one alone", "images", "coverage"),
        cases=[(100, 0.10, 0.06), (450, 0.10, 0.06), (100, 0.02, 0.01), (450, 0.02, 0.01), None],
        line=_images,
    ),
    "label-value": Figure(
        title="Label value, k = 1: coverage; a bootstrap over units beside it (100 comparisons)",
        columns=(_UNIT, "coverage", "bootstrap"),
        cases=[(3, 3), (5, 5), (10, 10), (5, 1), (5, 2), (10, 5)],
        line=_label_value,
    ),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    comparisons = parser.add_argument("--comparisons", type=int, default=2000)
    comparisons.help = "of each line"
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=list(FIGURES), help="tables to print")
    arguments = parser.parse_args()
    chosen = [FIGURES[name] for name in arguments.figures]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("lines", total=sum(len(figure.cases) for figure in chosen))
        for figure in chosen:
            print(f"\n{figure.title}:\n\n| {' | '.join(figure.columns)} |\n{'|---' * len(figure.columns)}|", flush=True)
            for case in figure.cases:
                print(f"| {' | '.join(figure.line(case, arguments.comparisons))} |", flush=True)
                progress.advance(task)


if __name__ == "__main__":
    main()
