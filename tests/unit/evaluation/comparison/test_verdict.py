import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ssl_transfer.evaluation.comparison.estimates import PRETRAININGS, SEEDS
from ssl_transfer.evaluation.comparison.findings import findings
from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.evaluation.comparison.verdict import sentences, verdict
from ssl_transfer.models.init_names import is_public
from ssl_transfer.stages.compare.checks import check_settings
from ssl_transfer.stages.compare.config import CompareConfig, pretraining_of

NOISE = (0.0, 0.01, -0.01, 0.005, -0.005)


def rows_of(
    arm: str,
    test: float,
    validation: float | None = None,
    *,
    labels: str = "5",
    backbone: str = "resnet18",
    seeds: int = 3,
    metric: str = "accuracy",
) -> list[Row]:
    """Chosen values of an arm around these means, and log-losses that agree with them."""
    means = {"test": test, "validation": test if validation is None else validation}
    rows = []
    for seed in range(seeds):
        for split, mean in means.items():
            key = {"arm": arm, "backbone": backbone, "labels": labels, "seed": seed, "phase": "chosen", "split": split}
            value = mean + NOISE[seed] * (0.5 if arm == "scratch" or is_public(arm) else 1.0)
            rows += [Row(**key, metric=metric, value=value), Row(**key, metric="log_loss", value=1 - value)]
    return rows


def spread(arm: str, test: float, deviation: float, **where: str) -> list[Row]:
    """Three seeds whose accuracies lie `deviation` apart, and so do the differences to a scratch without spread."""
    rows = []
    for seed in range(3):
        for split, accuracy in {"test": test + deviation * (seed - 1), "validation": test}.items():
            key = {"arm": arm, "backbone": "net", "labels": "5", **where, "seed": seed, "phase": "chosen"}
            rows += [Row(**key, split=split, metric="accuracy", value=accuracy)]
            rows += [Row(**key, split=split, metric="log_loss", value=1 - accuracy)]
    return rows


def costs(
    arm: str, pretraining: float, transfer: float, *, seeds: int = 3, labels: Sequence[str] = ("5",)
) -> list[Row]:
    """Seconds of an arm's runs."""
    return [
        Row(
            arm=arm,
            backbone="resnet18",
            labels=budget,
            seed=seed,
            phase="chosen",
            split="train",
            metric=metric,
            value=value,
        )
        for budget in labels
        for seed in range(seeds)
        for metric, value in (("pretrain_seconds", pretraining), ("transfer_seconds", transfer))
    ]


def outcomes(rows, **description):
    return {item.arm: item.outcome for item in findings(Results(rows, description=description))}


def test_every_pretrained_arm_has_a_finding_at_every_budget():
    arms = {"scratch": 0.6, "imagenet": 0.7, "timm:one": 0.7, "simclr": 0.8, "moco": 0.5, "run:mine": 0.9}
    rows = [row for labels in ("5", "20") for arm, mean in arms.items() for row in rows_of(arm, mean, labels=labels)]
    found = findings(Results(rows))
    names = [(item.arm, item.labels) for item in found]
    assert sorted(names) == sorted((arm, labels) for labels in ("5", "20") for arm in ("simclr", "moco", "run:mine"))
    assert {item.num_compared for item in found} == {6}
    assert [item.arm for item in found if item.is_preferred] == ["run:mine", "run:mine"]


def test_the_start_is_what_validation_prefers_among_scratch_and_public_weights():
    rows = [*rows_of("scratch", 0.9, validation=0.5), *rows_of("simclr", 0.8)]
    weights = rows_of("timm:one", 0.6, validation=0.7, backbone="vit")
    (item,) = findings(Results([*rows, *weights]))
    assert (item.start, item.start_backbone) == ("timm:one", "vit")
    assert item.theirs.mean == pytest.approx(0.6)
    assert item.is_taken
    # Ahead of the chosen start alone is not ahead of the better one.
    assert item.outcome == "open"
    assert item.p_value == 1.0


def test_better_means_better_than_every_start():
    noisy = [replace(row, value=row.value + 0.04 * row.seed) for row in rows_of("imagenet", 0.7, validation=0.5)]
    rows = [*rows_of("scratch", 0.6), *noisy, *rows_of("simclr", 0.8)]
    (item,) = findings(Results(rows))
    assert item.start == "scratch"
    results = Results(rows)
    others = [results.difference(cell, ("imagenet", *cell[1:])) for cell in results.test if cell[:1] == ("simclr",)]
    worst = max(one.p_value for one in others if not np.isnan(one.p_value))
    assert item.p_value == pytest.approx(worst)
    assert item.p_value > 0.05 > item.difference.p_value


def test_worse_is_corrected_for_the_number_of_starts():
    starts = [*rows_of("scratch", 0.8), *rows_of("scratch", 0.5, backbone="vit"), *rows_of("imagenet", 0.4)]
    (item,) = findings(Results([*starts, *rows_of("simclr", 0.6)]))
    assert item.p_value == pytest.approx(3 * item.difference.p_value)
    assert item.outcome == "worse"


def nested(values: dict[str, list[float]], pretrainings: list[int], **description) -> Results:
    """Results of arms with these test accuracies by seed; validation has their means."""
    rows = [
        Row(
            arm=arm,
            backbone="net",
            labels="5",
            seed=seed,
            phase="chosen",
            split=split,
            metric="accuracy",
            value=value if split == "test" else float(np.mean(found)),
        )
        for arm, found in values.items()
        for seed, value in enumerate(found)
        for split in ("test", "validation")
    ]
    description = {"seeds": list(range(len(pretrainings))), "pretrainings": pretrainings, **description}
    return Results(rows, description=description)


def test_seeds_are_nested_in_pretrainings():
    ours, theirs = [0.70, 0.72, 0.80, 0.82, 0.76, 0.78], [0.6, 0.61, 0.6, 0.61, 0.6, 0.61]
    (item,) = findings(nested({"scratch": theirs, "simclr": ours}, [0, 0, 1, 1, 2, 2]))
    means = (np.array(ours) - np.array(theirs)).reshape(3, 2).mean(axis=1)
    expected = stats.ttest_1samp(means, 0.0)
    assert item.difference.over == PRETRAININGS
    assert (item.difference.pretrainings, item.difference.units, item.difference.count) == (3, 3, 6)
    assert item.difference.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (item.difference.low, item.difference.high) == pytest.approx((interval.low, interval.high))
    # The value of the start is in the pairing of the arm.
    assert item.ours.mean - item.theirs.mean == pytest.approx(item.difference.mean)


def test_one_pretraining_is_one_network():
    values = {"scratch": [0.6, 0.61, 0.62], "simclr": [0.7, 0.72, 0.71], "run:mine": [0.7, 0.72, 0.71]}
    found = findings(nested(values, [0, 0, 0]))
    assert [(item.is_single, item.is_finished_run, item.difference.over) for item in found] == [
        (True, False, SEEDS),
        (True, True, SEEDS),
    ]
    # A run is one network, whatever the other arms have.
    own = {item.arm: item.is_single for item in findings(nested(values, [0, 1, 2]))}
    assert own == {"simclr": False, "run:mine": True}


@pytest.mark.parametrize(
    ("mean", "worthwhile", "outcome"),
    [(0.7, 1.0, "better"), (0.602, 1.0, "open"), (0.602, 4.0, "small"), (0.58, 1.0, "small"), (0.5, 1.0, "worse")],
)
def test_outcomes(mean, worthwhile, outcome):
    rows = [*spread("scratch", 0.6, 0.0), *spread("simclr", mean, 0.01)]
    assert outcomes(rows, worthwhile=worthwhile) == {"simclr": outcome}


def test_a_gain_too_small_to_matter_is_small_though_it_is_shown():
    rows = [*spread("scratch", 0.6, 0.0), *spread("simclr", 0.604, 0.0001)]
    (item,) = findings(Results(rows))
    assert item.p_value < 0.05
    assert item.outcome == "small"


def test_no_spread_is_no_proof():
    assert outcomes([*spread("scratch", 0.6, 0.0), *spread("simclr", 0.9, 0.0)]) == {"simclr": "unknown"}
    assert outcomes([*rows_of("scratch", 0.2, seeds=1), *rows_of("simclr", 0.9, seeds=1)]) == {"simclr": "unknown"}


def test_an_arm_without_spread_counts_in_the_family():
    rows = [*spread("scratch", 0.6, 0.0), *spread("simclr", 0.7, 0.01)]
    alone, among = (
        next(item for item in findings(Results(found)) if item.arm == "simclr")
        for found in (rows, [*rows, *spread("moco", 0.7, 0.0)])
    )
    assert among.p_value == pytest.approx(2 * alone.p_value)


def test_a_metric_that_is_better_when_lower():
    rows = [*rows_of("scratch", 0.8, metric="calibration_error"), *rows_of("simclr", 0.5, metric="calibration_error")]
    worse = rows_of("moco", 0.9, metric="calibration_error")
    found = {
        item.arm: item
        for item in findings(Results([*rows, *worse], description={"primary_metric": "calibration_error"}))
    }
    assert {arm: item.outcome for arm, item in found.items()} == {"simclr": "better", "moco": "worse"}
    assert found["simclr"].is_preferred
    mean, low, high = found["simclr"].gain
    assert low < mean < high
    assert mean == pytest.approx(0.3)
    assert found["simclr"].difference.mean == pytest.approx(-0.3)


def test_the_crossed_interval_covers_test_images_too():
    rng = np.random.default_rng(0)
    rows = [*rows_of("scratch", 0.6), *rows_of("simclr", 0.7)]
    cells = {arm: (arm, "resnet18", "5", "chosen", "accuracy") for arm in ("scratch", "simclr")}
    hits = {
        cells[arm]: {seed: (rng.random(200) < share).astype(np.uint8) for seed in range(3)}
        for arm, share in (("scratch", 0.6), ("simclr", 0.7))
    }
    (item,) = findings(Results(rows, hits=hits))
    means = [hits[cells["simclr"]][seed].mean() - hits[cells["scratch"]][seed].mean() for seed in range(3)]
    assert item.crossed.mean == pytest.approx(np.mean(means))
    assert item.crossed.over == "pretrainings and test images"
    assert findings(Results(rows))[0].crossed is None


def test_where_runs_failed_all_numbers_are_of_the_seeds_that_both_have():
    rows = [row for row in rows_of("scratch", 0.6) if row.seed != 1] + rows_of("simclr", 0.8)
    (found,) = findings(Results(rows))
    assert found.ours.mean - found.theirs.mean == pytest.approx(found.difference.mean)
    assert (found.difference.count, found.num_seeds) == (2, 3)


def test_equal_accuracies_are_separated_by_log_loss():
    rows = [*rows_of("scratch", 0.6), *rows_of("mae", 0.9, validation=0.8), *rows_of("moco", 0.7, validation=0.8)]
    better = [replace(row, value=0.01) if (row.arm, row.metric) == ("moco", "log_loss") else row for row in rows]
    assert [item.arm for item in findings(Results(better)) if item.is_preferred] == ["moco"]


def test_an_arm_that_differs_alone_may_not_differ_among_many():
    """A t value of 10 with three seeds: p 0.0099, which four arms at one budget leave under 5 %, and twelve do not."""
    rows = [*spread("scratch", 0.6, 0.0), *spread("best", 0.7, 0.1 / 10 * 3**0.5)]
    others = [row for number in range(3) for row in spread(f"other{number}", 0.61, 0.05)]
    assert outcomes([*rows, *others])["best"] == "better"
    more = [replace(row, labels=labels) for labels in ("1", "20") for row in (*spread("scratch", 0.6, 0.0), *others)]
    more += [row for labels in ("1", "20") for row in spread("best", 0.62, 0.2, labels=labels)]
    best = next(item for item in findings(Results([*rows, *others, *more])) if (item.arm, item.labels) == ("best", "5"))
    assert (best.outcome, best.num_compared) == ("open", 12)
    assert best.difference.low > 0
    assert best.p_value == pytest.approx(12 * best.difference.p_value)


def answer(rows, **description) -> str:
    return sentences(Results(rows, description=description))[0]


def text_of(rows, hits=None, **description) -> str:
    return verdict(Results(rows, hits=hits, description=description))


WIN = [*rows_of("scratch", 0.6), *rows_of("simclr", 0.8)]


def test_a_win():
    assert sentences(Results(WIN)) == [
        "Yes: pretraining on these images helps.",
        "At 5 labels a class, against scratch (60.0%), better: simclr 80.0% (+20.0 points [+18.8, +21.2]). "
        "Validation prefers simclr.",
        "Brackets: 95 % intervals over 3 pretrainings, each with its own transfer seeds, on these test images.",
    ]


@pytest.mark.parametrize("accuracy", [0.799, 0.801])
def test_a_tie_is_undecided(accuracy):
    text = text_of([*spread("scratch", 0.8, 0.0), *spread("simclr", accuracy, 0.02)])
    assert text.startswith("Whether pretraining on these images helps cannot be told from these runs.")
    assert "not decided: simclr" in text
    # What could have been seen, and what would show the gain that matters.
    assert "With 3 pretrainings, simclr at 5 labels a class must gain 6.5 points to be found in four of five" in text
    assert "A true gain of 1.0 points takes 34 pretrainings." in text


def test_no_needs_every_interval_below_the_gain_that_matters():
    loss = [*rows_of("scratch", 0.8), *rows_of("simclr", 0.6)]
    assert answer(loss) == "No: no pretrained arm gains 1 point or more at 5 labels a class."
    assert "worse: simclr 60.0% (-20.0 points [-21.2, -18.8])" in text_of(loss)
    small = [*spread("scratch", 0.8, 0.0), *spread("simclr", 0.8, 0.002)]
    assert answer(small).startswith("No: ")
    assert "interval below 1 point: simclr" in text_of(small)
    assert answer(small, worthwhile=0.3).startswith("Whether ")
    undecided = [*loss, *rows_of("moco", 0.8)]
    assert outcomes(undecided) == {"simclr": "worse", "moco": "open"}
    assert answer(undecided).startswith("Whether ")


def test_the_answer_is_about_all_arms():
    """The choice of validation loses, and another arm wins by far."""
    rows = [*rows_of("scratch", 0.705), *rows_of("moco", 0.858, validation=0.7)]
    text = text_of([*rows, *rows_of("simclr", 0.604, validation=0.71)])
    assert text.startswith("Yes: pretraining on these images helps.")
    assert "better: moco 85.8% (+15.3 points [" in text
    assert "worse: simclr 60.4% (-10.1 points [" in text
    assert "Validation prefers simclr." in text


def test_validation_may_prefer_the_start():
    text = text_of([*rows_of("scratch", 0.6, validation=0.9), *rows_of("simclr", 0.8), *rows_of("moco", 0.7)])
    assert "Validation prefers scratch, and simclr among the pretrained." in text


def test_budgets_that_differ():
    rows = [
        *(rows_of("scratch", 0.6, labels="2") + rows_of("moco", 0.8, labels="2")),
        *(rows_of("scratch", 0.6, labels="5") + rows_of("moco", 0.8, labels="5")),
        *(rows_of("scratch", 0.9, labels="20") + rows_of("moco", 0.905, labels="20")),
        *(rows_of("scratch", 0.9, labels="all") + rows_of("moco", 0.8, labels="all")),
    ]
    assert answer(rows) == (
        "Pretraining on these images helps at 2 and 5 labels a class. With all labels no pretrained arm gains 1 point "
        "or more. At 20 labels a class it cannot be told from these runs."
    )
    assert answer(rows[48:]).startswith("With all labels no pretrained arm gains 1 point or more. At 20")
    no = [row for row in rows if row.labels == "all"]
    both = [*no, *(replace(row, labels="10") for row in no)]
    assert answer(both) == "No: no pretrained arm gains 1 point or more at any budget."


def test_shares_of_the_labels_are_named_so():
    rows = [
        *(rows_of("scratch", 0.6, labels="5") + rows_of("moco", 0.8, labels="5")),
        *(rows_of("scratch", 0.6, labels="0.07") + rows_of("moco", 0.8, labels="0.07")),
        *(rows_of("scratch", 0.6, labels="0.5") + rows_of("moco", 0.8, labels="0.5")),
        *(rows_of("scratch", 0.9, labels="all") + rows_of("moco", 0.9, labels="all")),
    ]
    text = text_of(rows)
    assert text.startswith("Pretraining on these images helps at 5 labels a class and at 7% and 50% of the labels")
    assert "At 7% of the labels, against scratch" in text


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        (0.8, "Yes: this pretrained network (simclr) helps."),
        (0.5, "No: no pretrained network gains 1 point or more at 5 labels a class."),
        (0.6, "Whether this pretrained network (simclr) helps cannot be told from these runs."),
    ],
)
def test_one_pretraining_supports_a_sentence_about_that_network(accuracy, words):
    rows = [*rows_of("scratch", 0.6), *rows_of("simclr", accuracy), *costs("scratch", 0, 30), *costs("simclr", 600, 60)]
    text = text_of(rows, seeds=[0, 1, 2], pretrain_seeds=1)
    assert text.startswith(words)
    assert "single network: 95 % intervals over transfer seeds. Other pretrainings are not covered." in text
    # Four pretrainings of 600 s, four transfer runs of 60 s, and two of scratch of 30 s: 45 minutes.
    assert (
        "simclr was pretrained once: this is no claim about the method. A claim takes 5 pretrainings: "
        "--seeds 0 1 2 3 4 --pretrain-seeds 5 (about 45 minutes of runs more)." in text
    )
    several = text_of([*rows, *rows_of("moco", accuracy)], seeds=[0, 1, 2], pretrain_seeds=1)
    assert "simclr, moco were pretrained once" in several
    better = text_of([*rows, *rows_of("moco", 0.9)], seeds=[0, 1, 2], pretrain_seeds=1)
    assert ("(simclr, moco) helps" in better) is (accuracy == 0.8)


def test_a_run_is_a_single_network():
    rows = [*rows_of("scratch", 0.6), *rows_of("run:mine", 0.8)]
    text = text_of(rows)
    assert text.startswith("Yes: this pretrained network (run:mine) helps.")
    assert "run:mine is one network: this is no claim about the method." in text
    assert "--pretrain-seeds" not in text
    # It may have been trained on other images.
    assert answer([*rows, *rows_of("simclr", 0.8)]) == "Yes: pretraining helps."
    # A claim that rests on the run alone is about the run alone.
    undecided = [*rows, *[replace(row, value=row.value + 0.05 * row.seed) for row in rows_of("simclr", 0.6)]]
    assert outcomes(undecided) == {"run:mine": "better", "simclr": "open"}
    assert answer(undecided) == "Yes: this pretrained network (run:mine) helps."


def test_public_weights_are_starts_not_pretraining_on_these_images():
    timm = rows_of("timm:resnet18.a1_in1k", 0.9)
    assert text_of([*rows_of("scratch", 0.6), *timm]).startswith("No arm was pretrained on these images")
    text = text_of([*WIN, *timm])
    assert text.startswith("No: no pretrained arm gains 1 point or more")
    assert "against timm:resnet18.a1_in1k (90.0%), " in text


@pytest.mark.parametrize("arms", [(), ("scratch",), ("scratch", "imagenet")])
def test_nothing_pretrained_no_answer(arms):
    rows = [row for arm in arms for row in rows_of(arm, 0.5)]
    assert text_of(rows).startswith("No arm was pretrained on these images: there is nothing to answer.")


def test_backbones_are_named_where_they_differ():
    rows = [*rows_of("scratch", 0.91), *rows_of("scratch", 0.61, backbone="vit"), *rows_of("mae", 0.81, backbone="vit")]
    text = text_of(rows)
    assert "against scratch on resnet18 (91.0%), worse: mae on vit 81.0%" in text


def test_where_scratch_failed_there_is_no_answer():
    simclr = [*rows_of("simclr", 0.8), *rows_of("simclr", 0.9, labels="20")]
    assert text_of(simclr).startswith("No start without pretraining has finished with the same seeds.")
    text = text_of([*rows_of("scratch", 0.6), *simclr])
    assert text.startswith("Yes: pretraining on these images helps.")
    assert "Without a finished start to compare with: 20 labels a class." in text
    failed = [row for row in rows_of("scratch", 0.6) if row.seed != 1] + rows_of("simclr", 0.8)
    assert "2 of 3 seeds, as runs failed" in text_of(failed)


def test_one_seed_claims_nothing():
    rows = [*rows_of("scratch", 0.2, seeds=1), *rows_of("simclr", 0.9, seeds=1)]
    without = text_of(rows)
    assert without.startswith("Whether this pretrained network (simclr) helps cannot be told from these runs.")
    assert "no interval over runs: simclr 90.0% (+70.0 points, one seed)" in without
    hits = {
        (arm, "resnet18", "5", "chosen", "accuracy"): {0: (np.arange(200) < share * 200).astype(np.uint8)}
        for arm, share in (("scratch", 0.2), ("simclr", 0.9))
    }
    text = text_of(rows, hits)
    assert text.startswith("Whether this pretrained network (simclr) helps cannot be told from these runs.")
    assert "no interval over runs: simclr 90.0% (+70.0 points [+6" in text
    assert (
        "One seed: 95 % intervals over test images alone, by bootstrap. Another draw of labels is not covered." in text
    )
    # Runs of an older version did not keep the images.
    assert text_of(rows, dict(list(hits.items())[:1])) == without


def test_arms_without_spread_are_no_proof_and_no_failure():
    text = text_of([*spread("scratch", 0.6, 0.0), *spread("simclr", 0.9, 0.0)])
    assert text.startswith("Whether pretraining on these images helps cannot be told")
    assert "no interval over runs: simclr 90.0% (+30.0 points, all runs agree)" in text
    assert "Equal results of all runs give no interval: they show neither a gain nor its absence." in text


def test_a_shown_difference_that_the_correction_leaves_open_is_marked():
    rows = [*spread("scratch", 0.6, 0.0), *spread("best", 0.7, 0.1 / 10 * 3**0.5)]
    rows += [row for number in range(11) for row in spread(f"other{number}", 0.61, 0.05)]
    assert "best 70.0% (+10.0 points [+5.7, +14.3]; corrected p 0.118 among 12 comparisons)" in text_of(rows)


def test_two_pretrainings_may_be_too_few_for_any_gain():
    rows = [row for row in (*spread("scratch", 0.5, 0.0), *spread("simclr", 0.6, 0.2)) if row.seed < 2]
    assert "2 pretrainings of simclr at 5 labels a class are too few to find any gain. " in text_of(rows)


def test_the_interval_with_test_images_stands_beside_the_choice_of_validation():
    rng = np.random.default_rng(0)
    hits = {
        (arm, "resnet18", "5", "chosen", "accuracy"): {
            seed: (rng.random(200) < share).astype(np.uint8) for seed in range(3)
        }
        for arm, share in (("scratch", 0.6), ("simclr", 0.8))
    }
    (found,) = findings(Results(WIN, hits=hits))
    low, high = (f"{100 * bound:+.1f}" for bound in (found.crossed.low, found.crossed.high))
    expected = f"Validation prefers simclr. Over runs and test images the interval of simclr is [{low}, {high}]."
    assert expected in text_of(WIN, hits)


def test_a_task_with_its_own_metric_is_worded_in_its_unit():
    rows = [*rows_of("scratch", 0.8, metric="log_loss_scaled"), *rows_of("simclr", 0.6, metric="log_loss_scaled")]
    text = text_of(rows, primary_metric="log_loss_scaled", worthwhile=0.05)
    assert text.startswith("Yes: pretraining on these images helps.")
    assert "against scratch (0.800), better: simclr 0.600 (-0.200 [-0.212, -0.188])" in text
    worse = [*rows_of("scratch", 0.6, metric="log_loss_scaled"), *rows_of("simclr", 0.8, metric="log_loss_scaled")]
    assert answer(worse, primary_metric="log_loss_scaled", worthwhile=0.05) == (
        "No: no pretrained arm gains 0.05 or more at 5 labels a class."
    )


def test_what_the_labels_of_the_preferred_arm_are_worth():
    budgets = {"5": 5.0, "20": 20.0, "80": 80.0, "all": 200.0}
    scratch = dict(zip(budgets, (0.6, 0.7, 0.8, 0.9), strict=True))
    simclr = dict(zip(budgets, (0.75, 0.82, 0.95, 0.96), strict=True))
    rows = [
        row
        for labels in budgets
        for row in (
            *rows_of("scratch", scratch[labels], labels=labels),
            *rows_of("simclr", simclr[labels], labels=labels),
        )
    ]
    description = {"num_classes": 1, "images": {labels: [count] for labels, count in budgets.items()}}
    text = text_of(rows, **description)
    # Halfway, in logarithms, between 20 and 80.
    assert "simclr at 5 labels a class equals scratch with 40 [" in text
    assert "simclr at 80 labels a class equals scratch with more than 200 [more than 200, more than 200] labels" in text
    # With the largest budget there is no larger one.
    assert "with all labels equals" not in text
    assert "equals" not in text_of(rows)
    undecided = [*spread("scratch", 0.5, 0.1), *spread("simclr", 0.5, 0.2)]
    assert "equals" not in text_of(undecided, num_classes=1, images={"5": [5], "9": [9]})


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2), (10, 11, 12), (0, 2, 4, 6, 8), (3, 8, 13), tuple(range(10))])
def test_the_seeds_of_the_remedy_are_accepted(seeds):
    rows = [*rows_of("scratch", 0.6, seeds=1), *rows_of("simclr", 0.8, seeds=1)]
    rows = [replace(row, seed=seed) for row in rows for seed in seeds]
    text = text_of(rows, seeds=list(seeds), pretrain_seeds=1)
    flags = re.search(r"--seeds ([\d ]+)--pretrain-seeds (\w+)", text)
    wanted = tuple(map(int, flags[1].split()))
    number = None if flags[2] == "None" else int(flags[2])
    assert set(wanted) >= set(seeds)
    check_settings(CompareConfig(seeds=wanted, pretrain_seeds=number))
    assert len({pretraining_of(seed, number) for seed in wanted}) >= 5


def test_an_unknown_difference_to_a_start_is_no_number():
    imagenet = [row for row in rows_of("imagenet", 0.3) if row.seed == 0]
    text = text_of([*rows_of("scratch", 0.6), *imagenet, *rows_of("simclr", 0.8)])
    assert "nan" not in text
    assert "(+20.0 points [+18.8, +21.2]; no interval to every start)" in text


def test_the_label_value_of_a_metric_that_is_better_when_lower():
    rows = [
        row
        for labels, scratch, simclr in (("5", 0.8, 0.5), ("20", 0.4, 0.3))
        for row in (
            *rows_of("scratch", scratch, labels=labels, metric="calibration_error"),
            *rows_of("simclr", simclr, labels=labels, metric="calibration_error"),
        )
    ]
    description = {"num_classes": 1, "images": {"5": [5], "20": [20]}, "primary_metric": "calibration_error"}
    first = next(item for item in findings(Results(rows, description=description)) if item.labels == "5")
    assert 5.0 < first.label_value.equals < 20.0


def test_with_all_labels_seeds_draw_no_labels():
    rows = [*rows_of("scratch", 0.6, labels="all"), *rows_of("simclr", 0.8, labels="all")]
    assert "With all labels the seeds differ in initialisation and order alone." in text_of(rows)
