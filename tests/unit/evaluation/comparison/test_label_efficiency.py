import math

import numpy as np
import pytest

from ssl_transfer.evaluation.comparison import label_efficiency
from ssl_transfer.evaluation.comparison.label_efficiency import (
    LABEL_VALUE_COLUMNS,
    LabelValue,
    equal_count,
    table_rows,
)
from ssl_transfer.evaluation.comparison.results import Results, Row

COUNTS = np.array([5.0, 20.0, 80.0])
CURVE = np.array([0.6, 0.7, 0.8])
NOISE = np.array([0.01, -0.01, 0.0, 0.02, -0.02])


def curves(noise=NOISE):
    """Of five seeds: what a seed does to one budget it does to all."""
    return CURVE + noise[:, None]


@pytest.mark.parametrize(
    ("accuracy", "count"),
    [(0.6, 5.0), (0.65, 10.0), (0.7, 20.0), (0.725, 20 * 2**0.5), (0.8, 80.0), (0.81, math.inf), (0.59, -math.inf)],
)
def test_counts_lie_between_the_budgets_on_a_logarithm(accuracy, count):
    equals, low, high = equal_count(accuracy + np.zeros(1), CURVE[None], COUNTS)
    assert equals == pytest.approx(count)
    assert (low, high) == (-math.inf, math.inf)


def test_the_interval_is_where_the_paired_difference_is_open():
    """Its reach is known, and read back from a curve that is straight."""
    steps = np.array([2.0, -2.0, 1.0, -1.0, 0.0]) * 0.01
    equals, low, high = equal_count(0.7 + NOISE + steps, curves(), COUNTS)
    reach = 2.776445 * np.std(steps, ddof=1) / math.sqrt(5)
    # A tenth of accuracy is four times the labels.
    assert equals == pytest.approx(20.0)
    assert high == pytest.approx(20.0 * 4 ** (reach / 0.1), rel=0.01)
    assert low == pytest.approx(20.0 / 4 ** (reach / 0.1), rel=0.01)


def test_pairing_narrows_it():
    steps = NOISE[::-1] * 0.1
    paired = equal_count(0.7 + NOISE + steps, curves(), COUNTS)
    crossed = equal_count(0.7 + NOISE[::-1] + steps, curves(), COUNTS)
    assert paired[2] - paired[1] < 0.5 * (crossed[2] - crossed[1])


def test_what_was_not_measured_bounds_nothing():
    equals, low, high = equal_count(0.78 + NOISE[::-1], curves(), COUNTS)
    assert 20.0 < low < equals < 80.0
    assert high == math.inf
    equals, low, high = equal_count(0.61 + NOISE[::-1], curves(), COUNTS)
    assert (low, 5.0 < equals < high < 80.0) == (-math.inf, True)
    assert equal_count(0.95 + NOISE[::-1], curves(), COUNTS) == (math.inf, math.inf, math.inf)
    assert equal_count(0.40 + NOISE[::-1], curves(), COUNTS) == (-math.inf, -math.inf, -math.inf)


def test_seeds_that_agree_are_no_certainty():
    equals, low, high = equal_count(0.7 + NOISE, curves(), COUNTS)
    assert (equals, low, high) == (pytest.approx(20.0), -math.inf, math.inf)


def test_the_estimate_lies_in_its_interval():
    """At the largest budget two seeds differ by chance as much from the arm, and at those before it they do not."""
    ours = np.array([0.91, 0.91])
    theirs = np.array([[0.5, 0.7, 0.90], [0.9, 0.95, 0.9001]])
    equals, low, high = equal_count(ours, theirs, COUNTS)
    assert (equals, low, high) == (math.inf, -math.inf, math.inf)
    generator = np.random.default_rng(0)
    for _ in range(200):
        ours, theirs = generator.normal(0.8, 0.05, 3), np.sort(generator.normal(0.75, 0.08, (3, 3)), axis=1)
        equals, low, high = equal_count(ours, theirs, COUNTS)
        assert low <= equals <= high


def test_a_dip_of_the_baseline_is_smoothed():
    """0.7 and 0.66 are 0.68 twice; the least count with that accuracy is the first of the two."""
    theirs = np.array([0.6, 0.7, 0.66, 0.8])
    counts = np.array([5.0, 20.0, 40.0, 80.0])
    assert equal_count(np.array([0.68]), theirs[None], counts)[0] == pytest.approx(20.0)
    assert equal_count(np.array([0.74]), theirs[None], counts)[0] == pytest.approx(40.0 * 2**0.5)
    assert equal_count(np.array([0.64]), theirs[None], counts)[0] == pytest.approx(10.0)


def rows_of(arm, accuracies, *, backbone="net", seeds=3) -> list[Row]:
    """By budget, with a little noise that no two arms share."""
    noise = np.random.default_rng(len(arm)).normal(scale=0.01, size=(len(accuracies), seeds))
    return [
        Row(
            arm=arm,
            backbone=backbone,
            labels=labels,
            seed=seed,
            phase="chosen",
            split="test",
            metric="accuracy",
            value=float(accuracy + noise[place, seed] - noise[place].mean()),
        )
        for place, (labels, accuracy) in enumerate(accuracies.items())
        for seed in range(seeds)
    ]


PER_CLASS = {"5": 5.0, "0.5": 20.0, "all": 40.0, "unused": 99.0}


def label_values(rows, hits, images_per_class):
    images = {labels: [count] for labels, count in images_per_class.items()}
    description = {"num_classes": 1, "images": images} if images else {}
    return label_efficiency.label_values(Results(rows, hits=hits, description=description))


def test_every_arm_and_baseline_has_its_rows():
    rows = [
        *rows_of("scratch", {"5": 0.6, "0.5": 0.7, "all": 0.8}),
        *rows_of("imagenet", {"5": 0.7, "0.5": 0.8, "all": 0.9}),
        *rows_of("simclr", {"5": 0.7, "0.5": 0.75, "all": 0.75}),
    ]
    values = label_values(rows, {}, PER_CLASS)
    lines = [dict(zip(LABEL_VALUE_COLUMNS, line, strict=True)) for line in table_rows(values)]
    assert len(lines) == 3 + 2 * 3
    found = {(line["arm"], line["baseline"], line["labels"]): line for line in lines}
    # Shares and all count as images a class.
    assert found["simclr", "scratch", "5"]["equals"] == pytest.approx(20.0)
    assert found["simclr", "scratch", "5"]["utility"] == pytest.approx(3.0)
    assert found["simclr", "imagenet", "all"]["equals"] == pytest.approx(10.0)
    assert found["simclr", "imagenet", "all"]["utility"] == pytest.approx(-0.75)
    assert found["imagenet", "scratch", "all"]["equals"] == math.inf
    line = found["simclr", "scratch", "0.5"]
    assert (line["images_per_class"], line["least"], line["most"], line["num_seeds"]) == (20.0, 5.0, 40.0, 3)
    assert line["interval_over"] == "pretrainings"
    assert found["imagenet", "scratch", "5"]["interval_over"] == "seeds"
    assert line["equals_low"] < line["equals"] < line["equals_high"]


def test_one_budget_is_no_curve():
    rows = [*rows_of("scratch", {"5": 0.6}), *rows_of("simclr", {"5": 0.7})]
    assert label_values(rows, {}, PER_CLASS) == []
    # Two names of one number of images are one budget.
    same = {"5": 5.0, "all": 5.0}
    rows = [*rows_of("scratch", {"5": 0.6, "all": 0.6}), *rows_of("simclr", {"5": 0.7, "all": 0.7})]
    assert label_values(rows, {}, same) == []
    # And of an older comparison nothing is known.
    assert label_values(rows, {}, {}) == []


def test_one_seed_is_measured_over_its_images():
    rows = [
        *rows_of("scratch", {"5": 0.6, "0.5": 0.7, "all": 0.9}, seeds=1),
        *rows_of("simclr", {"5": 0.8, "0.5": 0.8, "all": 0.8}, seeds=1),
    ]
    rng = np.random.default_rng(0)
    hits = {
        (row.arm, "net", row.labels, "chosen", "accuracy"): {0: (rng.permutation(400) < 400 * row.value)}
        for row in rows
    }
    value = next(value for cell, _, value in label_values(rows, hits, PER_CLASS) if cell[2] == "5")
    assert value.over == "test images"
    assert 20.0 < value.low < value.equals < value.high < 40.0
    del hits["scratch", "net", "all", "chosen", "accuracy"]
    value = next(value for cell, _, value in label_values(rows, hits, PER_CLASS) if cell[2] == "5")
    assert (value.over, value.low, value.high) == ("", -math.inf, math.inf)


@pytest.mark.parametrize(
    ("equals", "low", "high", "over", "text"),
    [
        (74.2, 52.0, math.inf, "seeds", "74 [52, more than 104]"),
        (math.inf, math.inf, math.inf, "seeds", "more than 104 [more than 104, more than 104]"),
        (-math.inf, -math.inf, 5.25, "seeds", "fewer than 5 [fewer than 5, 5.2]"),
        (7.0, -math.inf, math.inf, "", "7 [no interval]"),
    ],
)
def test_counts_in_words(equals, low, high, over, text):
    value = LabelValue(own=5, equals=equals, low=low, high=high, least=5.0, most=103.6, num_seeds=3, over=over)
    assert value.text == text
