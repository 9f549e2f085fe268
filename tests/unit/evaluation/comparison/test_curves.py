"""Build learning curves over phases of any names."""

import pytest

from ssl_transfer.evaluation.comparison import curves


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


def test_runs_of_a_budget_may_have_other_phases():
    lines = lines_of("simclr", 0, {"head": [(10, 0.5)], "frozen": [(20, 0.6)]})
    lines += lines_of("simclr", 1, {"fast": [(15, 0.7)]})
    starts = curves.Curves(lines).phase_starts(shared=True)
    assert starts["simclr", "net", "5", 0] == {"head": 0, "frozen": 10}
    assert starts["simclr", "net", "5", 1] == {"fast": 0}


def test_the_mean_holds_the_last_value_of_who_stopped():
    long, short = curves.Curve(steps=[1, 2, 4], values=[0.0, 0.2, 0.4]), curves.Curve(steps=[2, 3], values=[0.4, 0.6])
    mean = curves.mean_curve([long, short])
    assert mean.steps == [2, 3, 4]
    assert mean.values == pytest.approx([0.3, 0.4, 0.5])
    assert curves.mean_curve([]).steps == []
