import math

import numpy as np
import pytest
from scipy import stats

from ssl_transfer.evaluation.statistics import (
    SUMMARY_COLUMNS,
    Row,
    baselines_of,
    budget_title,
    by_cell,
    estimate,
    paired_difference,
    percent_of,
    summarize,
)


def row(arm, value, *, seed=0, backbone="resnet18", labels="5", phase="chosen", split="test", metric="accuracy") -> Row:
    return Row(
        arm=arm, backbone=backbone, labels=labels, seed=seed, phase=phase, split=split, metric=metric, value=value
    )


def test_the_interval_is_students():
    values = [0.80, 0.84, 0.79, 0.90]
    found = estimate(values)
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    reach = stats.t.ppf(0.975, df=3) * deviation / math.sqrt(4)
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - reach, mean + reach))
    assert found.p_value == pytest.approx(2 * stats.t.sf(mean / (deviation / 2), df=3))
    assert found.count == 4


def test_a_known_interval():
    # Quantile of t with 2 degrees of freedom: 4.3027.
    found = estimate([1.0, 2.0, 3.0])
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_seed_has_no_interval():
    found = estimate([0.7])
    assert (found.mean, found.low, found.high) == (0.7, -math.inf, math.inf)
    assert math.isnan(found.p_value)


def test_equal_values_are_no_certainty():
    for values in ([0.5, 0.5], [0.1 + 0.2, 0.3, 0.3]):
        found = estimate(values)
        assert (found.low, found.high) == (-math.inf, math.inf)
        assert math.isnan(found.p_value)


def test_differences_are_paired_by_seed():
    ours, theirs = {0: 0.50, 1: 0.70, 2: 0.91}, {2: 0.90, 1: 0.68, 0: 0.49, 7: 0.1}
    found = paired_difference(ours, theirs)
    by_hand = stats.ttest_rel([0.50, 0.70, 0.91], [0.49, 0.68, 0.90])
    assert found.count == 3
    assert found.mean == pytest.approx(0.04 / 3)
    assert found.p_value == pytest.approx(by_hand.pvalue)
    interval = by_hand.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_cells_hold_one_split():
    rows = [row("simclr", 0.8), row("simclr", 0.9, seed=1), row("simclr", 0.1, split="validation")]
    assert by_cell(rows, split="test") == {("simclr", "resnet18", "5", "chosen", "accuracy"): {0: 0.8, 1: 0.9}}


def cells_of(*pairs):
    return {(arm, backbone, "5", "chosen", "accuracy"): {0: 0.5} for arm, backbone in pairs}


def test_baselines_are_on_the_same_backbone():
    cells = cells_of(("scratch", "a"), ("scratch", "b"), ("imagenet", "a"), ("imagenet", "b"), ("simclr", "b"))
    found = baselines_of(("simclr", "b", "5", "chosen", "accuracy"), cells)
    assert found == [
        ("scratch", ("scratch", "b", "5", "chosen", "accuracy")),
        ("imagenet", ("imagenet", "b", "5", "chosen", "accuracy")),
    ]


def test_scratch_on_another_backbone_is_no_baseline_but_imagenet_may_be():
    cells = cells_of(("scratch", "a"), ("imagenet", "a"), ("simclr", "b"))
    found = baselines_of(("simclr", "b", "5", "chosen", "accuracy"), cells)
    assert found == [("imagenet (a)", ("imagenet", "a", "5", "chosen", "accuracy"))]


def test_what_goes_on_from_imagenet_has_both_baselines():
    cells = cells_of(("scratch", "a"), ("imagenet", "a"), ("simclr", "a"), ("imagenet+simclr", "a"))
    found = baselines_of(("imagenet+simclr", "a", "5", "chosen", "accuracy"), cells)
    assert [key[:2] for _, key in found] == [("scratch", "a"), ("imagenet", "a")]


def test_no_arm_is_its_own_baseline():
    cells = cells_of(("scratch", "a"), ("imagenet", "a"))
    assert baselines_of(("scratch", "a", "5", "chosen", "accuracy"), cells) == []
    assert [name for name, _ in baselines_of(("imagenet", "a", "5", "chosen", "accuracy"), cells)] == ["scratch"]


def test_summary():
    rows = [
        row(arm, value, seed=seed)
        for arm, values in (("scratch", (0.5, 0.6)), ("simclr", (0.7, 0.9)))
        for seed, value in enumerate(values)
    ]
    rows.append(row("simclr", 0.0, split="validation"))
    scratch, simclr = summarize(rows)
    assert tuple(scratch) == tuple(simclr) == SUMMARY_COLUMNS
    assert (scratch["arm"], scratch["mean"], scratch["baseline"], scratch["p_value"]) == ("scratch", 0.55, "", "")
    assert (simclr["arm"], simclr["num_seeds"], simclr["baseline"]) == ("simclr", 2, "scratch")
    assert (simclr["mean"], simclr["difference"]) == pytest.approx((0.8, 0.25))
    by_hand = stats.ttest_rel([0.7, 0.9], [0.5, 0.6])
    assert simclr["p_value"] == pytest.approx(by_hand.pvalue)


@pytest.mark.parametrize(
    ("labels", "percent", "title", "long"),
    [
        ("all", None, "all labels", "all labels"),
        ("5", None, "5 a class", "5 labels a class"),
        ("1", None, "1 a class", "1 labels a class"),
        ("0.1", "10%", "10% of each class", "10% of each class"),
        ("0.125", "12.5%", "12.5% of each class", "12.5% of each class"),
        ("0.29", "29%", "29% of each class", "29% of each class"),
        ("other", None, "other a class", "other labels a class"),
    ],
)
def test_budgets_are_named(labels, percent, title, long):
    assert percent_of(labels) == percent
    assert budget_title(labels) == title
    assert budget_title(labels, "labels ") == long
