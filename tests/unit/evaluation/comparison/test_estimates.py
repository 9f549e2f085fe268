import math

import numpy as np
import pytest
from scipy import stats

from ssl_transfer.evaluation.comparison.estimates import IMAGES, PRETRAININGS, SEEDS, estimate, paired_difference
from ssl_transfer.evaluation.comparison.label_budgets import budget_title, percent_of
from ssl_transfer.evaluation.comparison.results import Cell, Results, Row
from ssl_transfer.evaluation.comparison.summary_table import SUMMARY_COLUMNS, summarize
from ssl_transfer.evaluation.metric_properties import POSITIVE, SHARE


def row(arm, value, *, seed=0, backbone="resnet18", labels="5", phase="chosen", split="test", metric="accuracy") -> Row:
    return Row(
        arm=arm, backbone=backbone, labels=labels, seed=seed, phase=phase, split=split, metric=metric, value=value
    )


def test_the_interval_is_students():
    values = [0.80, 0.84, 0.79, 0.90]
    found = estimate(values, within=SHARE)
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    reach = stats.t.ppf(0.975, df=3) * deviation / math.sqrt(4)
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - reach, mean + reach))
    assert found.p_value == pytest.approx(2 * stats.t.sf(mean / (deviation / 2), df=3))
    assert found.count == 4


def test_a_known_interval():
    # Quantile of t with 2 degrees of freedom: 4.3027.
    found = estimate([1.0, 2.0, 3.0], within=(-math.inf, math.inf))
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_seed_has_no_interval():
    found = estimate([0.7], within=SHARE)
    assert (found.mean, found.low, found.high) == (0.7, -math.inf, math.inf)
    assert math.isnan(found.p_value)


def test_equal_values_are_no_certainty():
    for values in ([0.5, 0.5], [0.1 + 0.2, 0.3, 0.3]):
        found = estimate(values, within=SHARE)
        assert (found.low, found.high) == (-math.inf, math.inf)
        assert math.isnan(found.p_value)


def test_differences_are_paired_by_seed():
    ours, theirs = {0: 0.50, 1: 0.70, 2: 0.91}, {2: 0.90, 1: 0.68, 0: 0.49, 7: 0.1}
    found = paired_difference(ours, theirs, within=SHARE)
    by_hand = stats.ttest_rel([0.50, 0.70, 0.91], [0.49, 0.68, 0.90])
    assert found.count == 3
    assert found.mean == pytest.approx(0.04 / 3)
    assert found.p_value == pytest.approx(by_hand.pvalue)
    interval = by_hand.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_no_interval_goes_beyond_what_the_number_can_be():
    """Two seeds that differ: Student's t reaches much further on either side."""
    ours, theirs = {0: 0.9, 1: 0.5}, {0: 0.2, 1: 0.8}
    found = estimate(list(ours.values()), within=SHARE)
    assert (found.low, found.high) == (0.0, 1.0)
    assert found.reach == pytest.approx((0.7, 0.3))
    assert found.percent() == "70.0 [0.0, 100.0]"
    apart = paired_difference(ours, theirs, within=SHARE)
    assert (apart.low, apart.high) == (-1.0, 1.0)
    assert apart.percent("+") == "+20.0 [-100.0, +100.0]"
    # Of a loss there is no most, and of the difference of two neither end.
    assert estimate([0.9, 0.5], within=POSITIVE).low == 0.0
    assert estimate([0.9, 0.5], within=POSITIVE).high > 1.0
    assert paired_difference(ours, theirs, within=POSITIVE).low < -1.0


def test_each_column_of_the_summary_is_limited_by_its_metric():
    values = dict.fromkeys(("accuracy", "log_loss", "transfer_seconds", "chosen_learning_rate", "r2"), (0.9, 0.5))
    rows = [
        row(arm, value if arm == "simclr" else 0.7, seed=seed, metric=metric)
        for arm in ("scratch", "simclr")
        for metric, held in values.items()
        for seed, value in enumerate(held)
    ]
    found = {line["metric"]: line for line in summarize(Results(rows)) if line["arm"] == "simclr"}
    columns = ("low", "high", "difference_low", "difference_high")
    assert [found["accuracy"][name] for name in columns] == [0.0, 1.0, -1.0, 1.0]
    for name in ("log_loss", "transfer_seconds"):
        assert found[name]["low"] == 0.0
        assert found[name]["high"] > 1.0
        assert found[name]["difference_low"] < -1.0
    # Learning rates, and metrics that are not in the table, are unbounded.
    for name in ("chosen_learning_rate", "r2"):
        assert found[name]["low"] < 0.0
        assert found[name]["high"] > 1.0
        assert found[name]["difference_low"] < -1.0
        assert found[name]["difference_high"] > 1.0


def test_cells_hold_one_split():
    rows = [row("simclr", 0.8), row("simclr", 0.9, seed=1), row("simclr", 0.1, split="validation")]
    assert Results(rows).test == {("simclr", "resnet18", "5", "chosen", "accuracy"): {0: 0.8, 1: 0.9}}


def baselines_of(cell: Cell, *pairs: tuple[str, str]) -> list[tuple[str, Cell]]:
    return Results([row(arm, 0.5, backbone=backbone) for arm, backbone in pairs]).baselines(cell)


def test_baselines_are_on_the_same_backbone():
    pairs = (("scratch", "a"), ("scratch", "b"), ("imagenet", "a"), ("imagenet", "b"), ("simclr", "b"))
    found = baselines_of(("simclr", "b", "5", "chosen", "accuracy"), *pairs)
    assert found == [
        ("scratch", ("scratch", "b", "5", "chosen", "accuracy")),
        ("imagenet", ("imagenet", "b", "5", "chosen", "accuracy")),
    ]


def test_scratch_on_another_backbone_is_no_baseline_but_imagenet_may_be():
    pairs = (("scratch", "a"), ("imagenet", "a"), ("simclr", "b"))
    found = baselines_of(("simclr", "b", "5", "chosen", "accuracy"), *pairs)
    assert found == [("imagenet (a)", ("imagenet", "a", "5", "chosen", "accuracy"))]


def test_what_goes_on_from_imagenet_has_both_baselines():
    pairs = (("scratch", "a"), ("imagenet", "a"), ("simclr", "a"), ("imagenet+simclr", "a"))
    found = baselines_of(("imagenet+simclr", "a", "5", "chosen", "accuracy"), *pairs)
    assert [key[:2] for _, key in found] == [("scratch", "a"), ("imagenet", "a")]


def test_no_arm_is_its_own_baseline():
    pairs = (("scratch", "a"), ("imagenet", "a"))
    assert baselines_of(("scratch", "a", "5", "chosen", "accuracy"), *pairs) == []
    assert [name for name, _ in baselines_of(("imagenet", "a", "5", "chosen", "accuracy"), *pairs)] == ["scratch"]


def test_summary():
    rows = [
        row(arm, value, seed=seed)
        for arm, values in (("scratch", (0.5, 0.6)), ("simclr", (0.7, 0.9)))
        for seed, value in enumerate(values)
    ]
    rows.append(row("simclr", 0.0, split="validation"))
    scratch, simclr = summarize(Results(rows))
    assert tuple(scratch) == tuple(simclr) == SUMMARY_COLUMNS
    assert (scratch["arm"], scratch["mean"], scratch["baseline"], scratch["p_value"]) == ("scratch", 0.55, "", "")
    assert (simclr["arm"], simclr["num_seeds"], simclr["baseline"]) == ("simclr", 2, "scratch")
    assert (simclr["mean"], simclr["difference"]) == pytest.approx((0.8, 0.25))
    by_hand = stats.ttest_rel([0.7, 0.9], [0.5, 0.6])
    assert simclr["p_value"] == pytest.approx(by_hand.pvalue)
    # One difference is a family of one, and two seeds are too few for an effect size.
    assert simclr["p_value_holm"] == simclr["p_value"]
    assert math.isnan(simclr["effect_size"])
    assert (simclr["interval_over"], scratch["p_value_holm"]) == (PRETRAININGS, "")
    assert (scratch["num_pretrainings"], simclr["num_pretrainings"]) == (0, 2)


def test_the_family_is_the_differences_of_the_chosen_accuracy():
    """Three arms by two budgets, one of them with two baselines; other phases and metrics are not in it."""
    rng = np.random.default_rng(0)
    rows = [
        row(arm, value, seed=seed, labels=labels, phase=phase, metric=metric)
        for arm in ("scratch", "imagenet", "simclr")
        for labels in ("5", "20")
        for phase in ("head", "chosen")
        for metric in ("accuracy", "macro_f1")
        for seed, value in enumerate(rng.normal(0.8, 0.01, size=4) + (0.1 if arm == "simclr" else 0.0))
    ]
    summary = summarize(Results(rows))
    family = [line for line in summary if line["p_value_holm"] != ""]
    assert {(line["phase"], line["metric"]) for line in family} == {("chosen", "accuracy")}
    assert [(line["arm"], line["baseline"]) for line in family] == [
        *[("imagenet", "scratch")] * 2,
        *[("simclr", "scratch"), ("simclr", "imagenet")] * 2,
    ]
    least, largest = (sorted(family, key=lambda line: line["p_value"])[place] for place in (0, -1))
    assert least["p_value_holm"] == pytest.approx(6 * least["p_value"])
    assert largest["p_value_holm"] >= largest["p_value"]
    line = next(line for line in family if (line["arm"], line["labels"]) == ("simclr", "5"))
    ours, theirs = (
        [found.value for found in rows if found == row(arm, found.value, seed=found.seed)]
        for arm in ("simclr", "scratch")
    )
    differences = np.subtract(ours, theirs)
    # gamma(3/2) / (sqrt(3/2) gamma(1)) of four seeds.
    correction = math.sqrt(math.pi) / 2 / math.sqrt(1.5)
    assert line["effect_size"] == pytest.approx(correction * differences.mean() / differences.std(ddof=1))


def images(*groups) -> np.ndarray:
    """So many right ones and wrong ones in turn."""
    return np.repeat(np.arange(1, len(groups) + 1) % 2, groups).astype(np.uint8)


def test_one_seed_is_measured_over_its_images():
    hits = {
        ("scratch", "resnet18", "5", "chosen", "accuracy"): {0: images(60, 40)},
        ("simclr", "resnet18", "5", "chosen", "accuracy"): {0: images(70, 30)},
    }
    rows = [
        row("scratch", 0.6),
        row("simclr", 0.7),
        row("simclr", 0.5, metric="macro_f1"),
        row("scratch", 0.4, phase="head"),
    ]
    summary = {(line["arm"], line["phase"], line["metric"]): line for line in summarize(Results(rows, hits=hits))}
    line = summary["simclr", "chosen", "accuracy"]
    # 0.7 plus and minus 1.96 sqrt(0.7 0.3 / 100); ten images of 100 make the difference.
    assert (line["low"], line["high"]) == pytest.approx((0.61, 0.79), abs=0.011)
    assert (line["difference_low"], line["difference_high"]) == pytest.approx((0.05, 0.16), abs=0.011)
    assert line["interval_over"] == IMAGES
    assert all(math.isnan(line[name]) for name in ("p_value", "p_value_holm", "effect_size"))
    for key in (("simclr", "chosen", "macro_f1"), ("scratch", "head", "accuracy")):
        assert (summary[key]["low"], summary[key]["interval_over"]) == (-math.inf, "")
    assert str(summarize(Results(rows, hits=hits))) == str(summarize(Results(rows, hits=hits)))


def test_differences_over_images_are_paired():
    """Two models that are right on the same images have no difference to speak of, and are no certainty either."""
    ours, apart = images(70, 30), images(70, 30)[::-1]
    same = paired_difference({0: 0.7}, {0: 0.7}, {0: ours}, {0: ours}, within=SHARE)
    assert (same.low, same.high, same.over) == (-math.inf, math.inf, "")
    found = paired_difference({0: 0.7}, {0: 0.7}, {0: ours}, {0: apart}, within=SHARE)
    assert found.low < -0.1
    assert found.high > 0.1
    # More seeds are better than more images.
    both = paired_difference({0: 0.7, 1: 0.8}, {0: 0.7, 1: 0.7}, {0: ours, 1: ours}, {0: apart, 1: apart}, within=SHARE)
    assert both.over == SEEDS


def test_images_that_were_not_kept_leave_no_interval():
    found = paired_difference({0: 0.7}, {0: 0.6}, {0: images(70, 30)}, {1: images(60, 40)}, within=SHARE)
    assert (found.low, found.over) == (-math.inf, "")


@pytest.mark.parametrize(
    ("labels", "percent", "title", "long"),
    [
        ("all", None, "all labels", "all labels"),
        ("5", None, "5 a class", "5 labels a class"),
        ("1", None, "1 a class", "1 label a class"),
        ("0.1", "10%", "10% of each class", "10% of each class"),
        ("0.125", "12.5%", "12.5% of each class", "12.5% of each class"),
        ("0.29", "29%", "29% of each class", "29% of each class"),
        ("other", None, "other a class", "other labels a class"),
    ],
)
def test_budgets_are_named(labels, percent, title, long):
    assert percent_of(labels) == percent
    assert budget_title(labels) == title
    assert budget_title(labels, "label") == long


def test_a_pretraining_counts_once():
    values, groups = [0.5, 0.7, 0.6, 0.8, 0.9, 0.9], [0, 0, 1, 1, 2, 2]
    found = estimate(values, within=SHARE, pretrainings=groups)
    means = [0.6, 0.7, 0.9]
    plain = estimate(means, within=SHARE)
    assert (found.mean, found.low, found.high, found.p_value) == pytest.approx(
        (plain.mean, plain.low, plain.high, plain.p_value)
    )
    assert (found.count, found.pretrainings, found.units, found.over) == (6, 3, 3, PRETRAININGS)
    # Of one network the seeds are the sample.
    single = estimate(values, within=SHARE, pretrainings=[4] * 6)
    assert (single.low, single.units, single.over) == (estimate(values, within=SHARE).low, 6, SEEDS)
    assert single.pretrainings == 1


def test_pretrainings_weigh_the_same_whatever_their_number_of_seeds():
    found = estimate([0.5, 0.6, 0.7, 0.9], within=SHARE, pretrainings=[0, 0, 0, 1])
    assert found.mean == pytest.approx((0.6 + 0.9) / 2)


def test_a_paired_difference_is_nested_too():
    ours, theirs = {0: 0.7, 1: 0.8, 2: 0.9, 5: 0.1}, {0: 0.6, 1: 0.6, 2: 0.6}
    found = paired_difference(ours, theirs, within=SHARE, pretrainings={0: 0, 1: 1, 2: 0, 5: 1})
    assert found.mean == pytest.approx(0.2)
    assert (found.units, found.count) == (2, 3)
