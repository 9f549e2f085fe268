from dataclasses import replace

import numpy as np
import pytest

from ssl_transfer.evaluation.comparison import verdict as verdicts
from ssl_transfer.evaluation.comparison.results import Results, Row

NOISE = (0.0, 0.01, -0.01)


def findings(rows):
    return verdicts.findings(Results(rows))


def verdict(rows, hits=None, images_per_class=None) -> str:
    images = {labels: [count] for labels, count in (images_per_class or {}).items()}
    description = {"num_classes": 1, "images": images} if images else {}
    return verdicts.verdict(Results(rows, hits=hits, description=description))


def rows_of(arm, test, validation=None, *, labels="5", backbone="resnet18", seeds=3) -> list[Row]:
    """Chosen accuracies of an arm around these means, and log-losses that agree with them."""
    means = {"test": test, "validation": test if validation is None else validation}
    rows = []
    for seed in range(seeds):
        for split, mean in means.items():
            key = {"arm": arm, "backbone": backbone, "labels": labels, "seed": seed, "phase": "chosen", "split": split}
            accuracy = mean + NOISE[seed] * (0.5 if arm == "scratch" else 1.0)
            rows += [Row(**key, metric="accuracy", value=accuracy), Row(**key, metric="log_loss", value=1 - accuracy)]
    return rows


def test_a_win():
    text = verdict([*rows_of("scratch", 0.6), *rows_of("simclr", 0.8)])
    assert text.startswith("Yes, pretraining on these images helps: at 5 labels a class simclr is ahead")
    assert "simclr 80.0%, scratch 60.0%, +20.0 points, 95 % interval +18.8 to +21.2" in text


@pytest.mark.parametrize("accuracy", [0.799, 0.801])
def test_a_tie(accuracy):
    text = verdict([*rows_of("scratch", 0.8), *rows_of("simclr", accuracy)])
    assert text.startswith("These runs do not show that pretraining on these images helps")
    assert "at 5 labels a class the difference is within the noise" in text


def test_a_loss():
    text = verdict([*rows_of("scratch", 0.8), *rows_of("simclr", 0.6)])
    assert text.startswith("No, pretraining on these images does not help")
    assert "simclr is behind" in text


def test_a_mixture():
    text = verdict(
        [
            *(rows_of("scratch", 0.6, labels="2") + rows_of("moco", 0.8, labels="2")),
            *(rows_of("scratch", 0.6, labels="5") + rows_of("moco", 0.8, labels="5")),
            *(rows_of("scratch", 0.9, labels="20") + rows_of("moco", 0.9, labels="20")),
            *(rows_of("scratch", 0.9, labels="all") + rows_of("moco", 0.8, labels="all")),
        ]
    )
    assert text.startswith("Pretraining on these images helps at 2 and 5 labels a class, not everywhere: ")
    assert "at 20 labels a class the difference is within the noise" in text
    assert "with all labels moco is behind" in text


def test_a_loss_among_ties_is_no_yes():
    text = verdict(
        [
            *(rows_of("scratch", 0.6) + rows_of("moco", 0.6)),
            *(rows_of("scratch", 0.9, labels="all") + rows_of("moco", 0.8, labels="all")),
        ]
    )
    answer = "Pretraining on these images does not help with all labels, and is not shown to elsewhere: "
    assert text.startswith(answer)


def test_where_runs_failed_all_numbers_are_of_the_seeds_that_both_have():
    rows = [row for row in rows_of("scratch", 0.6) if row.seed != 1] + rows_of("simclr", 0.8)
    (found,) = findings(rows)
    assert found.ours.mean - found.theirs.mean == pytest.approx(found.difference.mean)
    assert (found.difference.count, found.num_seeds) == (2, 3)
    assert "2 of 3 seeds, as runs failed" in verdict(rows)


def test_where_scratch_failed_nothing_is_said_of_it():
    simclr = [*rows_of("simclr", 0.8), *rows_of("simclr", 0.9, labels="20")]
    assert verdict(simclr).startswith("Nothing to hold the pretraining against")
    text = verdict([*rows_of("scratch", 0.6), *simclr])
    assert text.startswith("Yes, pretraining on these images helps: at 5 labels a class simclr is ahead")
    assert "Without a start to hold it against, as runs failed: 20 labels a class." in text


def test_scratch_on_the_arms_own_backbone_stands_beside():
    """Validation prefers another scratch, which may be the worse one on the test images."""
    rows = [*rows_of("scratch", 0.5, validation=0.7), *rows_of("scratch", 0.8, validation=0.6, backbone="vit")]
    text = verdict([*rows, *rows_of("mae", 0.7, backbone="vit")])
    assert "scratch on resnet18 50.0%" in text
    assert "Compared with scratch on its own backbone: -10.0 points" in text


def test_one_seed_claims_nothing():
    text = verdict([*rows_of("scratch", 0.2, seeds=1), *rows_of("simclr", 0.9, seeds=1)])
    assert text.startswith("These runs do not show")
    assert "one seed, so no interval" in text


def test_the_best_arm_is_chosen_on_validation():
    rows = [*rows_of("scratch", 0.6), *rows_of("mae", 0.9, validation=0.5), *rows_of("moco", 0.7, validation=0.8)]
    assert [item.arm for item in findings(rows)] == ["moco"]
    assert "mae" not in verdict(rows)


def test_equal_accuracies_are_told_apart_by_log_loss():
    rows = [*rows_of("scratch", 0.6), *rows_of("mae", 0.9, validation=0.8), *rows_of("moco", 0.7, validation=0.8)]
    better = [
        Row(**{**row.__dict__, "value": 0.01}) if (row.arm, row.metric) == ("moco", "log_loss") else row for row in rows
    ]
    assert [item.arm for item in findings(better)] == ["moco"]


def test_the_arm_is_compared_with_the_best_scratch_on_any_backbone():
    rows = [*rows_of("scratch", 0.91), *rows_of("scratch", 0.61, backbone="vit"), *rows_of("mae", 0.81, backbone="vit")]
    found = findings(rows)[0]
    assert found.outcome == "worse"
    assert found.theirs.mean == pytest.approx(0.91)
    assert "scratch on resnet18 91.0%" in verdict(rows)


def test_the_best_scratch_is_chosen_on_validation():
    rows = [
        *rows_of("scratch", 0.9, validation=0.5),
        *rows_of("scratch", 0.6, validation=0.7, backbone="vit"),
        *rows_of("mae", 0.8, backbone="vit"),
    ]
    assert findings(rows)[0].theirs.mean == pytest.approx(0.6)


def test_the_backbone_of_imagenet_is_named():
    rows = [*rows_of("scratch", 0.6), *rows_of("moco", 0.8), *rows_of("imagenet", 0.9, backbone="mobilenetv2_100")]
    assert "Compared with ImageNet weights (mobilenetv2_100): -10.0 points" in verdict(rows)


def test_what_goes_on_from_imagenet_is_held_against_imagenet():
    """Being ahead of scratch alone says nothing about the pretraining on one's own images."""
    # The noise of all but scratch is the same: their difference has an interval only where it varies a little.
    imagenet = [replace(row, value=row.value + 0.001 * row.seed) for row in rows_of("imagenet", 0.8)]
    rows = [*rows_of("scratch", 0.6), *imagenet, *rows_of("imagenet+simclr", 0.8011, validation=0.81)]
    text = verdict(rows)
    assert text.startswith("These runs do not show that pretraining on these images helps")
    assert "the difference is within the noise (imagenet+simclr 80.1%, imagenet 80.1%" in text
    assert "Compared with scratch: +20.1 points" in text
    assert "Compared with ImageNet" not in text
    text = verdict([*rows_of("scratch", 0.6), *imagenet, *rows_of("imagenet+simclr", 0.9)])
    assert text.startswith("Yes, pretraining on these images helps: at 5 labels a class imagenet+simclr is ahead")


def test_what_goes_on_from_imagenet_is_held_against_scratch_where_that_is_better():
    rows = [*rows_of("scratch", 0.8), *rows_of("imagenet", 0.6), *rows_of("imagenet+simclr", 0.7)]
    text = verdict(rows)
    assert text.startswith("No, pretraining on these images does not help")
    assert "scratch 80.0%, -10.0 points" in text
    assert "Compared with ImageNet weights (resnet18): +10.0 points" in text


def test_a_plain_method_is_held_against_scratch_whatever_else_was_compared():
    rows = [*rows_of("scratch", 0.6), *rows_of("imagenet", 0.9), *rows_of("simclr", 0.8)]
    text = verdict([*rows, *rows_of("imagenet+simclr", 0.7)])
    assert "simclr 80.0%, scratch 60.0%" in text
    assert "Compared with ImageNet weights (resnet18): -10.0 points" in text


def test_each_budget_names_its_own_baseline():
    rows = [
        *(
            rows_of("scratch", 0.5)
            + rows_of("imagenet", 0.6)
            + rows_of("simclr", 0.6)
            + rows_of("imagenet+simclr", 0.7)
        ),
        *(rows_of("scratch", 0.8, labels="all") + rows_of("imagenet", 0.8, labels="all")),
        *(rows_of("simclr", 0.95, labels="all") + rows_of("imagenet+simclr", 0.9, labels="all")),
    ]
    assert [(item.arm, item.baseline) for item in findings(rows)] == [
        ("imagenet+simclr", "imagenet"),
        ("simclr", "scratch"),
    ]
    text = verdict(rows)
    assert "Compared with scratch: +20.0 points, 95 % interval +18.8 to +21.2 at 5 labels a class." in text
    assert "Compared with ImageNet weights (resnet18): +15.0 points" in text


@pytest.mark.parametrize("arms", [(), ("scratch",), ("scratch", "imagenet")])
def test_nothing_pretrained_nothing_said(arms):
    rows = [row for arm in arms for row in rows_of(arm, 0.5)]
    assert "says nothing about pretraining" in verdict(rows)


def test_shares_of_the_labels_are_named_so():
    rows = [
        *(rows_of("scratch", 0.6, labels="5") + rows_of("moco", 0.8, labels="5")),
        *(rows_of("scratch", 0.6, labels="0.07") + rows_of("moco", 0.8, labels="0.07")),
        *(rows_of("scratch", 0.6, labels="0.5") + rows_of("moco", 0.8, labels="0.5")),
        *(rows_of("scratch", 0.9, labels="all") + rows_of("moco", 0.9, labels="all")),
    ]
    text = verdict(rows)
    assert text.startswith(
        "Pretraining on these images helps at 5 labels a class and at 7% and 50% of the labels, not everywhere: "
    )
    assert "at 7% of the labels moco is ahead" in text
    only = verdict([row for row in rows if row.labels == "0.07"])
    assert only.startswith("Yes, pretraining on these images helps: at 7% of the labels moco is ahead")


def spread(arm, test, deviation, **where) -> list[Row]:
    """Three seeds whose accuracies lie `deviation` apart, of an arm whose differences to scratch (without) do too."""
    rows = []
    for seed in range(3):
        values = {"test": test + deviation * (seed - 1), "validation": test}
        for split, accuracy in values.items():
            key = {"arm": arm, "backbone": "net", "labels": "5", **where, "seed": seed, "phase": "chosen"}
            rows += [Row(**key, split=split, metric="accuracy", value=accuracy)]
            rows += [Row(**key, split=split, metric="log_loss", value=1 - accuracy)]
    return rows


def test_what_is_ahead_by_itself_may_not_be_among_many():
    """A t value of 10 with three seeds: p 0.0099, which four arms at one budget leave under 5 %, and twelve do not."""
    rows = [*spread("scratch", 0.6, 0.0), *spread("best", 0.7, 0.1 / 10 * 3**0.5)]
    others = [row for number in range(3) for row in spread(f"other{number}", 0.61, 0.05)]
    text = verdict([*rows, *others])
    assert text.startswith("Yes, pretraining on these images helps: at 5 labels a class best is ahead")
    more = [replace(row, labels=labels) for labels in ("1", "20") for row in (*spread("scratch", 0.6, 0.0), *others)]
    more += [row for labels in ("1", "20") for row in spread("best", 0.62, 0.2, labels=labels)]
    found = findings([*rows, *others, *more])
    assert [(item.outcome, item.num_compared) for item in found] == [("open", 12)] * 3
    assert found[0].difference.low > 0
    assert found[0].p_value == pytest.approx(12 * found[0].difference.p_value)
    text = verdict([*rows, *others, *more])
    assert text.startswith("These runs do not show that pretraining on these images helps: at 5 labels a class ")
    assert "the interval leaves out zero, which is no proof among 12 comparisons (corrected p 0.118; best 70.0%" in text
    assert text.count("within the noise") == 2


def test_a_loss_among_many_is_corrected_too():
    rows = [*spread("scratch", 0.7, 0.0), *spread("best", 0.6, 0.1 / 10 * 3**0.5)]
    assert findings(rows)[0].outcome == "worse"
    others = [row for number in range(11) for row in spread(f"other{number:02}", 0.5, 0.2)]
    (found,) = findings([*rows, *others])
    assert (found.arm, found.outcome, found.num_compared) == ("best", "open", 12)


def hits_of(share, arm, labels="5", count=200):
    """The last images are wrong, so that the better of two models is right wherever the other is."""
    images = (np.arange(count) < share * count).astype(np.uint8)
    return {(arm, "resnet18", labels, "chosen", "accuracy"): {0: images}}


def test_one_seed_has_an_interval_over_images_and_claims_nothing():
    rows = [*rows_of("scratch", 0.2, seeds=1), *rows_of("simclr", 0.9, seeds=1)]
    hits = hits_of(0.2, "scratch") | hits_of(0.9, "simclr")
    text = verdict(rows, hits)
    assert text.startswith("These runs do not show")
    assert "there is no telling (simclr 90.0%, scratch 20.0%, +70.0 points, 95 % interval over test images +6" in text
    assert text.endswith(
        "One seed: intervals over test images only, by bootstrap; another draw of labels is not in them."
    )
    # Runs of an older version did not keep the images.
    old = verdict(rows, hits_of(0.9, "simclr"))
    assert old == verdict(rows)
    assert "one seed, so no interval" in old


def test_what_the_labels_of_the_best_arm_are_worth():
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
    text = verdict(rows, None, budgets)
    # Halfway, in logarithms, between 20 and 80.
    assert "simclr at 5 labels a class equals scratch with 40 [" in text
    assert "simclr at 80 labels a class equals scratch with more than 200 [more than 200, more than 200] labels" in text
    # With the largest budget there is no larger one.
    assert "with all labels equals" not in text
    assert "equals" not in verdict(rows)
    # What is not ahead is worth nothing that could be told.
    assert "equals" not in verdict(
        [*spread("scratch", 0.5, 0.1), *spread("simclr", 0.5, 0.2)], None, {"5": 5.0, "9": 9.0}
    )


def test_weights_of_timm_are_not_pretraining_on_these_images():
    """They stand in the table; the sentence is about what was pretrained here, or about nothing."""
    timm = rows_of("timm:resnet18.a1_in1k", 0.9)
    assert verdict([*rows_of("scratch", 0.6), *timm]).startswith("No arm pretrained on these images")
    text = verdict([*rows_of("scratch", 0.6), *rows_of("simclr", 0.8), *timm])
    assert text.startswith("Yes, pretraining on these images helps: at 5 labels a class simclr is ahead")


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        (0.8, "Yes, pretraining helps: "),
        (0.5, "No, pretraining does not help: "),
        (0.6, "These runs do not show that pretraining helps: "),
    ],
)
def test_a_run_may_have_been_trained_on_other_images(accuracy, words):
    text = verdict([*rows_of("scratch", 0.6), *rows_of("run:mine", accuracy)])
    assert text.startswith(words)
    assert "run:mine" in text
