"""Accuracy under attack as tables: arms and seeds by name, intervals, differences."""

import math

import numpy as np
import pytest
import torch

from ssl_transfer.engine.errors import InputError
from ssl_transfer.evaluation.features.extract import class_scores_of
from ssl_transfer.evaluation.predictions.attack_table import (
    ARM_COLUMNS,
    CLEAN,
    RUN_COLUMNS,
    AttackPlan,
    Outcome,
    RunName,
    arm_rows,
    lines_of,
    outcomes,
    run_rows,
)
from ssl_transfer.evaluation.predictions.attacks import Attack
from ssl_transfer.models.classifier import Classifier
from ssl_transfer.stages.explain import attacks
from ssl_transfer.stages.explain.attacks import panels_of, table, table_of
from ssl_transfer.stages.explain.grids import epsilon_text, grid
from ssl_transfer.stages.explain.subject import Shown, Subject

MINE = RunName(name="mine", arm="mine", seed=0)
ATTACKS = (Attack(name="fgsm", targeted=False), Attack(name="pgd", targeted=True, steps=3))


def outcome(
    arm: str, hits: list[int], condition=(CLEAN, 0.0), reached: list[int] | None = None, *, seed: int = 0
) -> Outcome:
    return Outcome(
        run=RunName(name=f"{arm}/seed{seed}", arm=arm, seed=seed),
        images=tuple(f"image {number}" for number in range(len(hits))),
        condition=condition,
        hits=np.array(hits, dtype=np.uint8),
        reached=None if reached is None else np.array(reached, dtype=np.uint8),
        mean_true_probability=0.5,
    )


@pytest.fixture
def classifier(make_supervised):
    objective = make_supervised()
    torch.nn.init.normal_(objective.head.layers[-1].weight, std=1.0, generator=torch.Generator().manual_seed(0))
    return Classifier(objective.backbone.eval(), objective.head.eval(), torch.arange(3))


def test_intervals_over_seeds_and_differences_paired_by_seed():
    found = [
        *(outcome("a", [1] * hits + [0] * (10 - hits), seed=seed) for seed, hits in enumerate((5, 6, 7))),
        *(outcome("b", [1] * hits + [0] * (10 - hits), seed=seed) for seed, hits in enumerate((7, 8, 8))),
    ]
    first, second = lines_of(found)
    assert (first.arm, first.baseline, first.difference) == ("a", "", None)
    assert (second.arm, second.baseline, second.accuracy.count) == ("b", "a", 3)
    assert first.accuracy.mean == pytest.approx(0.6)
    assert first.accuracy.low == pytest.approx(0.6 - 4.302653 * 0.1 / math.sqrt(3))
    assert second.difference is not None
    assert second.difference.mean == pytest.approx((0.2 + 0.2 + 0.1) / 3)
    rows = [dict(zip(ARM_COLUMNS, row, strict=True)) for row in arm_rows([first, second])]
    assert rows[0]["num_seeds"] == 3
    assert math.isnan(rows[0]["difference"])
    assert rows[1]["difference_low"] < rows[1]["difference"] < rows[1]["difference_high"]


def test_no_interval_leaves_the_range_of_a_share():
    """As of the steel surfaces, where a targeted attack got its class in 83.2 [65.1, 101.2] % of images."""
    under = ("PGD, targeted", 0.1)
    found = [
        *(outcome("a", [0] * 10, under, [1] * 9 + [0]), outcome("a", [1, *[0] * 9], under, [1] * 10, seed=1)),
        *(outcome("b", [1] * 9 + [0], under, [0, 1]), outcome("b", [0] * 10, under, [0, 0], seed=1)),
    ]
    first, second = lines_of(found)
    assert first.accuracy.percent() == "5.0 [0.0, 68.5]"
    assert first.target_share.percent() == "95.0 [31.5, 100.0]"
    assert second.difference.percent("+") == "+40.0 [-100.0, +100.0]"
    assert second.target_share is not None
    assert second.target_share.percent() == "25.0 [0.0, 100.0]"


def test_one_run_has_an_interval_over_its_images():
    (line,) = lines_of([outcome("mine", [1] * 80 + [0] * 20)])
    assert line.accuracy.over == "test images"
    assert line.accuracy.low == pytest.approx(0.72, abs=0.02)
    assert line.accuracy.high == pytest.approx(0.87, abs=0.02)


def test_the_table_has_a_column_an_arm_and_says_where_targeted_attacks_got():
    under = ("PGD, targeted", 8 / 255)
    found = [
        *(outcome("a", [1, 1, 0, 1]), outcome("a", [0, 1, 0, 0], under, [1, 0, 1])),
        *(outcome("b", [1, 1, 1, 1]), outcome("b", [1, 1, 0, 0], under, [0, 0, 1])),
    ]
    headings, rows = table_of(lines_of(found))
    assert headings == ("attack", "epsilon", "a", "b")
    assert [row[:2] for row in rows] == [("clean", ""), ("PGD, targeted", "8/255")]
    assert rows[0][3].startswith("100.0\n+25.0")
    assert "gets its class 66.7" in rows[1][2]
    (panel,) = panels_of(lines_of(found))
    assert panel[0] == "PGD, targeted"
    np.testing.assert_allclose([values[:, 0] for _, values in panel[1]], [[0.75, 0.25], [1.0, 0.5]])


def test_an_attack_that_may_do_more_and_does_less_is_said(tmp_path):
    found = [outcome("mine", [1] * 10), outcome("mine", [1] * 2 + [0] * 8, ("PGD", 0.1))]
    strong = [*found, outcome("mine", [1] * 1 + [0] * 9, ("PGD", 0.2))]
    weak = [*found, outcome("mine", [1] * 5 + [0] * 5, ("PGD", 0.2))]
    assert len(table(tmp_path / "strong", strong, split="test").sentences) == 1
    assert "too coarse (PGD on mine)" in table(tmp_path / "weak", weak, split="test").sentences[1]
    assert "too coarse" in (tmp_path / "weak" / "attacks.md").read_text()
    assert "--pgd-steps" in table(tmp_path / "weak", weak, split="test").sentences[1]


def test_an_attack_of_one_step_has_none_to_make_finer(tmp_path):
    hits = {(CLEAN, 0.0): [1, 1, 1], ("FGSM", 0.1): [1, 0, 0], ("FGSM", 0.2): [1, 1, 0]}
    found = [outcome("mine", right, condition) for condition, right in hits.items()]
    _, note = table(tmp_path, found, split="test").sentences
    assert "(FGSM on mine): FGSM has one, and PGD is the better measure." in note
    assert "--pgd-steps" not in note


def test_every_column_of_the_examples_says_what_it_is(classifier, tmp_path, monkeypatch):
    captions: list[str] = []

    def keep(title, rows):
        captions.extend(cell.caption for _, cells in rows for cell in cells)
        return grid(title, rows)

    monkeypatch.setattr(attacks, "grid", keep)
    shown = Shown(views=torch.rand(1, 1, 16, 16), labels=(1,), names=("one",))
    subject = Subject(
        name="run", backbone=classifier.backbone, classifier=classifier, classes=tuple("abc"), dataset=None, shown=shown
    )
    attacks.examples(subject, classifier, tmp_path, attacks=ATTACKS, epsilon=0.1, target=2, seed=0)
    assert captions[0].startswith("image\n")
    assert captions[1::2] == ["change by FGSM", "change by PGD to c"]


def test_epsilons_as_they_are_known():
    assert [epsilon_text(value) for value in (8 / 255, 0.05, 0.2, 1.0)] == ["8/255", "0.05", "0.2", "1"]


def test_a_model_on_images_as_they_are_and_attacked(classifier, runtime, make_dataset):
    dataset = make_dataset()
    test = dataset.splits["test"]
    plan = AttackPlan(attacks=ATTACKS, epsilons=(0.05, 0.5), target=None, seed=0)
    found = outcomes(classifier, dataset, test, runtime, run=MINE, plan=plan)
    assert [one.condition for one in found] == [
        *((CLEAN, 0.0), ("FGSM", 0.05), ("FGSM", 0.5), ("PGD, targeted", 0.05), ("PGD, targeted", 0.5)),
    ]
    clean = class_scores_of(classifier, dataset, test, runtime).argmax(dim=1) == dataset.labels[test]
    np.testing.assert_array_equal(found[0].hits, clean.numpy())
    assert found[0].mean_true_probability > found[1].mean_true_probability > found[2].mean_true_probability
    assert [one.reached is None for one in found] == [True, True, True, False, False]
    assert found[4].reached.mean() > found[3].reached.mean()
    rows = [dict(zip(RUN_COLUMNS, row, strict=True)) for row in run_rows(found)]
    assert [row["accuracy"] for row in rows] == [float(one.hits.mean()) for one in found]
    again = outcomes(classifier, dataset, test, runtime, run=MINE, plan=plan)
    assert run_rows(again)[3:] == run_rows(found)[3:]


def test_images_of_the_class_that_is_gone_to_do_not_count(classifier, runtime, make_dataset):
    dataset = make_dataset()
    plan = AttackPlan(attacks=ATTACKS[1:], epsilons=(0.5,), target=2, seed=0)
    found = outcomes(classifier, dataset, dataset.splits["test"], runtime, run=MINE, plan=plan)
    assert len(found[0].hits) == 12
    assert len(found[1].reached) == len(found[1].hits) == len(found[1].images) == 8
    # A change without bounds takes all of them there: none is right any more, by its own class or otherwise.
    assert found[1].reached.mean() == 1.0
    assert found[1].hits.mean() == 0.0
    assert found[1].mean_true_probability < 0.5


def test_going_where_all_are_is_refused(classifier, runtime, make_dataset):
    dataset = make_dataset()
    own = dataset.splits["test"][dataset.labels[dataset.splits["test"]] == 2]
    plan = AttackPlan(attacks=ATTACKS[1:], epsilons=(0.5,), target=2, seed=0)
    with pytest.raises(InputError, match="every image is of this class already"):
        outcomes(classifier, dataset, own, runtime, run=MINE, plan=plan)
