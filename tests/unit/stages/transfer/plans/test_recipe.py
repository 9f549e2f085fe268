"""Plans: what each name stands for, what a phase's line may say, and what is refused."""

import pytest

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.models.heads import HeadConfig
from ssl_transfer.stages.transfer.plans.lines import PLANS, lines_of
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe

EXPECTED = {
    ("feature-extraction",): ("head",),
    ("fine-tune",): ("head", "all"),
    ("partial",): ("head", "last:2"),
    ("partial", "from:features.12.conv.1"): ("head", "from:features.12.conv.1"),
    ("gradual",): ("head", "last:1", "last:2", "last:3"),
    ("gradual", "2"): ("head", "last:1", "last:2"),
    ("probe",): ("probe",),
    ("probe", "all norm=frozen", "average"): ("probe", "all norm=frozen", "average"),
    ("fine-tune-frozen",): ("head", "all norm=frozen"),
    ("fine-tune-moving",): ("head", "all norm=train"),
    ("full",): ("all",),
    ("full-fast",): ("all rate=3e-3 decay=1 norm=train",),
    ("low-level", "3"): ("head",),
    ("surgical",): ("head", "first:1"),
    ("surgical", "first:2"): ("head", "first:2"),
    ("head", "last:2 rate=1e-3 epochs=20", "all rate=1e-4 decay=0.5"): (
        *("head", "last:2 rate=1e-3 epochs=20", "all rate=1e-4 decay=0.5"),
    ),
}


@pytest.mark.parametrize("plan", EXPECTED)
def test_a_plan_is_a_list_of_phases(plan):
    assert lines_of(plan) == EXPECTED[plan]


def test_every_named_plan_was_looked_at():
    assert set(PLANS) <= {plan[0] for plan in EXPECTED}


def test_the_default_is_the_head_and_then_everything_at_a_tenth():
    recipe = TransferRecipe(epochs=3, head_steps=100, finetune_steps=10)
    head, finetune = recipe.phases(steps_per_epoch=5)
    assert (head.name, head.trained, head.learning_rate, head.layer_decay, head.epochs) == ("head", "head", 0.01, 1, 20)
    assert (finetune.name, finetune.trained, finetune.epochs) == ("finetune", "all", 3)
    assert finetune.learning_rate == pytest.approx(0.001)
    assert finetune.layer_decay == 0.75


def test_a_phase_may_depart_from_the_recipe():
    plan = ("head epochs=7", "last:2 rate=5e-4", "all epochs=2 decay=1")
    phases = TransferRecipe(plan=plan, head_steps=1, finetune_steps=1).phases(steps_per_epoch=1)
    assert [phase.name for phase in phases] == ["head", "finetune-1", "finetune-2"]
    assert [phase.epochs for phase in phases] == [7, 30, 2]
    assert [phase.learning_rate for phase in phases] == pytest.approx([0.01, 5e-4, 1e-3])
    assert [phase.layer_decay for phase in phases] == [1.0, 0.75, 1.0]


def test_only_low_level_drops_blocks():
    assert TransferRecipe(plan=("low-level", "3")).keep_blocks == 3
    assert all(TransferRecipe(plan=plan).keep_blocks is None for plan in EXPECTED if plan[0] != "low-level")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (("",), "trains nothing"),
        (("fine-tuning",), "Did you mean fine-tune"),
        (("fine-tune", "all"), "takes no word more"),
        (("partial", "last:1", "last:2"), "takes one word more"),
        (("partial", "layer4"), "neither a plan"),
        (("gradual", "0"), "1 or more"),
        (("low-level",), "how many"),
        (("head", "last:0"), "N from 1"),
        (("head", "last:two"), "N from 1"),
        (("head", "from:"), "neither a plan"),
        (("head", "all speed=3"), "no setting of a phase"),
        (("head", "all rate=fast"), "above 0"),
        (("head", "all epochs=0"), "whole number"),
        (("head", "all decay=2"), "at most 1"),
        (("head", "all norm=moving"), "train or frozen"),
        (("probe epochs=3",), "probe has no settings"),
        (("head", "average"), "two phases before it"),
        (("head", "all", "average", "average"), "two phases before it"),
        (("all", "all", "average"), "the first of which trains the head"),
    ],
)
def test_what_is_no_plan_is_refused(plan, message):
    with pytest.raises(InputError, match=message):
        TransferRecipe(plan=plan)


def test_the_backbone_never_learns_faster_than_the_head():
    recipe = TransferRecipe(plan=("head", "all rate=0.02"), optimizer=OptimizerConfig(learning_rate=0.01))
    with pytest.raises(InputError, match="above the head's"):
        recipe.phases(steps_per_epoch=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixup": -0.1}, "negative"),
        ({"mixup": 0.2, "frozen_views": 1}, "give one"),
        ({"frozen_views": -1}, "0 or more"),
        ({"plan": ("full",), "plans": ("auto",)}, "give one of the two"),
        ({"plans": ("full-fats",)}, "Did you mean full-fast"),
        ({"plans": ("partial",)}, "no plan of this name"),
        ({"plans": ("auto",), "batch_norm": "frozen"}, "would be ignored"),
        ({"plan": ("head",), "batch_norm": "frozen"}, "trains the head alone"),
        ({"plan": ("probe",), "head": HeadConfig(kind="hidden")}, "linear head"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        TransferRecipe(**settings)
