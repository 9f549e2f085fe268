"""Runs of several ways to adapt as a table: means, pairs, words."""

import csv

import pytest

from ssl_transfer.evaluation.comparison.adaptation_table import (
    AdaptedRun,
    Point,
    choices_of,
    leader,
    lines_of,
    rows_of,
    sentence,
)
from ssl_transfer.evaluation.comparison.estimates import estimate
from ssl_transfer.evaluation.metric_properties import SHARE
from ssl_transfer.reports import adaptation as report

TOLD = {"information": 1.5, "density": 3.0, "importance": 0.5, "a_distance": 1.2}


def run_of(method: str, seed: int, accuracy: float, *, uses: bool = False, **training: float) -> AdaptedRun:
    return AdaptedRun(
        method=method,
        seed=seed,
        result={
            "uses_target_labels": uses,
            "target_test": {"accuracy": accuracy},
            "source_validation": {"accuracy": 0.9 + 0.01 * seed},
            "after": {**TOLD, "a_distance": 1.0 + seed},
            "training": training,
            "criteria": {
                "source": {"target_accuracy": 0.2 + 0.1 * seed, "value": 1.0},
                "density": {"value": 2.0},
            },
            "seconds": 10.0 + seed,
            "images_seen": 5,
            "num_parameters": 7,
            "peak_memory_mb": 1.0,
        },
    )


@pytest.fixture
def runs() -> list[AdaptedRun]:
    """dann is ahead in each seed by 20, 21, 22 points; coral by chance; mmd behind."""
    found = []
    for seed, base in enumerate((0.50, 0.60, 0.40)):
        found += [
            run_of("source-only", seed, base),
            run_of("dann", seed, base + 0.20 + 0.01 * seed, discriminator_accuracy=0.6 + 0.1 * seed),
            run_of("coral", seed, base + (0.05, -0.04, 0.0)[seed]),
            run_of("mmd", seed, base - 0.10 - 0.01 * seed),
            run_of("target", seed, 0.95 + 0.001 * seed, uses=True),
        ]
    return found


def test_differences_are_paired_by_seed(runs):
    lines = {line.method: line for line in lines_of(runs)}
    assert list(lines) == ["source-only", "dann", "coral", "mmd", "target"]
    assert lines["source-only"].difference is None
    dann = lines["dann"]
    assert dann.test.mean == pytest.approx(0.71)
    # 20, 21, 22: the deviation is 1 point, the quantile of t with 2 degrees 4.3027.
    assert (dann.difference.low, dann.difference.high) == pytest.approx(
        (0.21 - 0.043027 / 3**0.5, 0.21 + 0.043027 / 3**0.5), abs=1e-6
    )
    assert dann.criteria["a_distance"] == pytest.approx(2.0)
    assert dann.training == pytest.approx({"discriminator_accuracy": 0.7})
    assert dann.seconds == pytest.approx(11.0)
    assert [line.uses_target_labels for line in lines.values()] == [False] * 4 + [True]


def test_the_sentence_sorts_by_what_the_intervals_say(runs):
    said = sentence(runs, "here to there")
    assert said.startswith("Yes: From here to there, training on the source alone gets 50.0 %")
    assert "ahead of it: dann 71.0 % (+21.0 [+18.5, +23.5] points); behind it: mmd 39.0 %" in said
    assert "not told apart from it: coral 50.3 %" in said
    assert said.endswith("training on the target's labels, the upper end, 95.1 %.")
    without = [run for run in runs if run.method not in ("dann", "target")]
    assert sentence(without, "x").startswith("It cannot be told: ")
    assert sentence([run for run in without if run.method != "coral"], "x").startswith("No: ")
    assert "upper end" not in sentence(without, "x")


def test_the_sentence_corrects_for_the_number_of_methods(runs):
    """One method that is ahead by its own interval may be so by chance among seven."""
    many = [
        run_of(f"method{number}", run.seed, run.result["target_test"]["accuracy"])
        for number in range(6)
        for run in runs
        if run.method == "coral"
    ]
    near = [
        run_of("near", seed, base + gain) for seed, (base, gain) in enumerate(((0.5, 0.05), (0.6, 0.07), (0.4, 0.06)))
    ]
    alone = [run for run in runs if run.method == "source-only"]
    assert "ahead of it: near" in sentence(alone + near, "x")
    assert "ahead of it" not in sentence(alone + near + many, "x")
    (line,) = (line for line in lines_of(alone + near + many) if line.method == "near")
    assert line.difference.low > 0.0
    assert line.p_value == pytest.approx(7 * line.difference.p_value)


def test_an_upper_bound_never_leads(runs):
    assert leader(runs) == "dann"
    ends = [run for run in runs if run.method in ("source-only", "target")]
    assert leader(ends) == "target"


def test_what_criteria_would_have_chosen_is_told_where_it_was_measured(runs):
    assert choices_of(runs)["coral"] == pytest.approx({"source": 0.3})


def test_one_seed_has_no_interval():
    assert estimate([0.5], within=SHARE).percent() == "50.0"
    assert estimate([0.5, 0.6], within=SHARE).percent() == "55.0 [0.0, 100.0]"


def test_the_report_is_written(runs, tmp_path):
    points = [Point(domain=domain, label="3", x=0.1, y=0.2) for domain in ("source", "target")]
    maps = {"source-only": points, "dann": [*points, Point(domain="target", label="", x=0, y=0)]}
    named = {"title": "<a> to b", "backbone": "resnet", "labels": "all", "choose": "source", "failures": []}
    report.write(tmp_path, runs, maps, **named)
    text = (tmp_path / "report.md").read_text()
    assert "| dann | 71.0 [47.3, 94.7] | +21.0 [+18.5, +23.5] |" in text
    assert "| target (upper bound) |" in text
    assert "## Features, before and after" in text
    page = (tmp_path / "report.html").read_text()
    assert "&lt;a&gt; to b" in page
    assert "<a>" not in page
    assert page.count("data:image/png;base64,") == 2
    for name in ("accuracy.png", "features.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(rows_of(runs))
    assert {"method": "dann", "seed": "1", "split": "target_test", "metric": "accuracy"}.items() <= next(
        row for row in rows if row["method"] == "dann" and row["seed"] == "1"
    ).items()


def test_a_report_without_maps_has_no_such_part(runs, tmp_path):
    named = {"title": "a to b", "backbone": "resnet", "labels": "5", "choose": "source"}
    failures = [{"folder": "runs/x", "lines": ["a", "it broke"], "held_back": 0}]
    report.write(tmp_path, runs, {"source-only": []}, **named, failures=failures)
    text = (tmp_path / "report.md").read_text()
    assert "Features" not in text
    assert "**Failed:** `runs/x`: it broke" in text
    assert "5 labels a class" in text
