"""Measure the three benefits of transfer, against numbers worked out by hand."""

import math

import pytest

from ssl_transfer.evaluation.comparison.estimates import estimate
from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.evaluation.comparison.transfer_benefits import BENEFIT_COLUMNS, transfer_benefits


def benefits(lines, *, pretrainings=(0, 1), **settings):
    rows = [
        Row(arm=arm, backbone="net", labels="5", seed=seed, phase="chosen", split="test", metric="accuracy", value=0.5)
        for arm, seed in dict.fromkeys((line["arm"], int(line["seed"])) for line in lines)
    ]
    description = {"seeds": [0, 1], "pretrainings": list(pretrainings)}
    return transfer_benefits(Results(rows, curves=lines, description=description), **settings)


def lines_of(arm: str, seed: int, phases: dict[str, list[tuple[int, float]]], *, labels: str = "5", split="validation"):
    """Lines of `curves.csv`: of each phase its (step, accuracy)."""
    place = {"arm": arm, "backbone": "net", "labels": labels, "seed": str(seed), "split": split, "metric": "accuracy"}
    return [
        {**place, "phase": phase, "epoch": "1", "step": str(step), "value": str(value)}
        for phase, points in phases.items()
        for step, value in points
    ]


SCRATCH = {
    0: {"head": [(0, 0.1), (10, 0.2)], "last-1": [(10, 0.5)], "full": [(5, 0.6), (10, 0.8)]},
    1: {"head": [(0, 0.2), (10, 0.3)], "last-1": [(10, 0.6)], "full": [(5, 0.7), (10, 0.7)]},
}
OURS = {
    0: {"head": [(0, 0.3), (10, 0.6)], "last-1": [(4, 0.75)], "full": [(5, 0.8), (10, 0.9)]},
    1: {"head": [(0, 0.3), (10, 0.65)], "last-1": [(10, 0.6)], "full": [(5, 0.7), (10, 0.85)]},
}


@pytest.fixture
def lines():
    found = []
    for seed in (0, 1):
        found += lines_of("scratch", seed, SCRATCH[seed])
        found += lines_of("simclr", seed, OURS[seed])
    return found


def test_the_three_benefits_by_hand(lines):
    rows = {row["benefit"]: row for row in benefits(lines)}
    assert len(rows) == len(benefits(lines)) == 3
    assert all(tuple(row) == BENEFIT_COLUMNS for row in rows.values())
    start = rows["jumpstart"]
    assert (start["arm"], start["baseline"], start["num_seeds"]) == ("simclr", "scratch", 2)
    expected = estimate([0.3 - 0.1, 0.3 - 0.2], within=(-1.0, 1.0))
    assert start["difference"] == pytest.approx(0.15)
    assert (start["difference_low"], start["difference_high"]) == pytest.approx((expected.low, expected.high))
    assert start["note"] == "measured before any training"
    # 0.9 x 0.8 = 0.72: step 14 against 30; 0.9 x 0.7 = 0.63: step 10 against 25.
    steps = rows["steps_to_threshold"]
    assert (steps["ours"], steps["theirs"], steps["difference"]) == (12.0, 27.5, -15.5)
    assert steps["difference_low"] < -16.0
    assert steps["note"].startswith("threshold 0.675 (90% of scratch's final accuracy); reached in 2 of 2 runs")
    end = rows["asymptote"]
    assert (end["ours"], end["theirs"]) == pytest.approx((0.875, 0.75))
    assert end["difference"] == pytest.approx(0.125)


def test_a_given_threshold_that_some_runs_never_reach(lines):
    rows = {row["benefit"]: row for row in benefits(lines, threshold=0.75)}
    steps = rows["steps_to_threshold"]
    # Scratch reaches it with seed 0 only.
    assert (steps["num_seeds"], steps["ours"], steps["theirs"]) == (1, 14.0, 30.0)
    assert steps["note"] == "threshold 0.750; reached in 2 of 2 runs, and in 1 from scratch"
    rows = {row["benefit"]: row for row in benefits(lines, threshold=0.95)}
    assert rows["steps_to_threshold"]["num_seeds"] == 0
    assert math.isnan(rows["steps_to_threshold"]["difference"])
    assert rows["asymptote"]["difference"] == pytest.approx(0.125)


def test_a_first_measurement_during_training_is_said():
    lines = lines_of("scratch", 0, {"full": [(3, 0.2), (6, 0.4)]}) + lines_of("mae", 0, {"full": [(3, 0.3), (6, 0.5)]})
    rows = {row["benefit"]: row for row in benefits(lines)}
    assert rows["jumpstart"]["note"] == "first measured at step 3, when training had begun"
    assert math.isinf(rows["jumpstart"]["difference_low"])


def test_nothing_to_compare_with():
    assert benefits(lines_of("simclr", 0, OURS[0])) == []
    other_seeds = lines_of("simclr", 0, OURS[0]) + lines_of("scratch", 1, SCRATCH[1])
    assert benefits(other_seeds) == []
    assert benefits([]) == []


def test_seeds_of_one_pretraining_are_one_unit():
    lines = [
        line
        for seed in range(4)
        for arm, accuracy in (("scratch", 0.1 + 0.01 * seed), ("simclr", 0.3 + 0.1 * (seed // 2)))
        for line in lines_of(arm, seed, {"head": [(0, accuracy)]})
    ]
    rows = [
        Row(arm=arm, backbone="net", labels="5", seed=seed, phase="chosen", split="test", metric="accuracy", value=0.5)
        for arm in ("scratch", "simclr")
        for seed in range(4)
    ]
    description = {"seeds": [0, 1, 2, 3], "pretrainings": [0, 0, 1, 1]}
    found = transfer_benefits(Results(rows, curves=lines, description=description))
    start = next(row for row in found if row["benefit"] == "jumpstart")
    expected = estimate([0.195, 0.275], within=(-1.0, 1.0))
    assert (start["num_seeds"], start["difference"]) == (4, pytest.approx(expected.mean))
    assert (start["difference_low"], start["difference_high"]) == pytest.approx((expected.low, expected.high))
