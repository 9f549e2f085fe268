"""Curves over phases of any names, and the three benefits against numbers worked out by hand."""

import math

import pytest

from ssl_transfer.evaluation.comparison import curves
from ssl_transfer.evaluation.comparison.estimates import estimate


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


def test_steps_go_on_from_phase_to_phase(lines):
    found = curves.Curves(lines).of_runs(split="validation", metric="accuracy")
    assert len(found) == 4
    assert found["scratch", "net", "5", 0].steps == [0, 10, 20, 25, 30]
    # This one's second phase stopped after 4 steps.
    assert found["simclr", "net", "5", 0].steps == [0, 10, 14, 19, 24]
    assert found["simclr", "net", "5", 0].values == [0.3, 0.6, 0.75, 0.8, 0.9]
    starts = curves.Curves(lines).phase_starts(shared=True)["simclr", "net", "5", 0]
    assert starts == {"head": 0, "last-1": 10, "full": 20}
    shared = curves.Curves(lines).of_runs(split="validation", metric="accuracy", shared=True)
    assert shared["simclr", "net", "5", 0].steps == [0, 10, 14, 25, 30]


def test_splits_and_metrics_stay_apart(lines):
    lines = lines + lines_of("simclr", 0, {"head": [(10, 0.99)]}, split="train")
    assert curves.Curves(lines).of_runs(split="train", metric="accuracy").keys() == {("simclr", "net", "5", 0)}
    assert curves.Curves(lines).of_runs(split="validation", metric="loss") == {}
    assert curves.Curves(lines).of_runs(split="validation", metric="accuracy")["simclr", "net", "5", 0].values[1] == 0.6


def test_the_mean_holds_the_last_value_of_who_stopped():
    long, short = curves.Curve(steps=[1, 2, 4], values=[0.0, 0.2, 0.4]), curves.Curve(steps=[2, 3], values=[0.4, 0.6])
    mean = curves.mean_curve([long, short])
    assert mean.steps == [2, 3, 4]
    assert mean.values == pytest.approx([0.3, 0.4, 0.5])
    assert curves.mean_curve([]).steps == []


def test_the_three_benefits_by_hand(lines):
    rows = {row["benefit"]: row for row in curves.transfer_benefits(curves.Curves(lines))}
    assert len(rows) == len(curves.transfer_benefits(curves.Curves(lines))) == 3
    assert all(tuple(row) == curves.BENEFIT_COLUMNS for row in rows.values())
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


def test_a_threshold_of_ones_own_and_who_never_reaches_it(lines):
    rows = {row["benefit"]: row for row in curves.transfer_benefits(curves.Curves(lines), threshold=0.75)}
    steps = rows["steps_to_threshold"]
    # Scratch reaches it with seed 0 only.
    assert (steps["num_seeds"], steps["ours"], steps["theirs"]) == (1, 14.0, 30.0)
    assert steps["note"] == "threshold 0.750; reached in 2 of 2 runs, and in 1 from scratch"
    rows = {row["benefit"]: row for row in curves.transfer_benefits(curves.Curves(lines), threshold=0.95)}
    assert rows["steps_to_threshold"]["num_seeds"] == 0
    assert math.isnan(rows["steps_to_threshold"]["difference"])
    assert rows["asymptote"]["difference"] == pytest.approx(0.125)


def test_a_first_measurement_during_training_is_said():
    lines = lines_of("scratch", 0, {"full": [(3, 0.2), (6, 0.4)]}) + lines_of("mae", 0, {"full": [(3, 0.3), (6, 0.5)]})
    rows = {row["benefit"]: row for row in curves.transfer_benefits(curves.Curves(lines))}
    assert rows["jumpstart"]["note"] == "first measured at step 3, when training had begun"
    assert math.isinf(rows["jumpstart"]["difference_low"])


def test_nothing_to_compare_with():
    assert curves.transfer_benefits(curves.Curves(lines_of("simclr", 0, OURS[0]))) == []
    other_seeds = lines_of("simclr", 0, OURS[0]) + lines_of("scratch", 1, SCRATCH[1])
    assert curves.transfer_benefits(curves.Curves(other_seeds)) == []
    assert curves.transfer_benefits(curves.Curves([])) == []
