"""Join the phases of several plans into one tree."""

import pytest

from ssl_transfer.stages.transfer.plans.lines import PORTFOLIO
from ssl_transfer.stages.transfer.plans.phase_tree import FIRST, path_to, starts_of
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe


def phases_of(**settings):
    return TransferRecipe(**settings).phases(steps_per_epoch=2)


def test_equal_beginnings_are_trained_once():
    phases = phases_of(plans=("fine-tune-frozen", "fine-tune-moving", "full-fast"))
    assert {phase.name: phase.after for phase in phases} == {
        "head": FIRST,
        "fine-tune-frozen": "head",
        "fine-tune-moving": "head",
        "full-fast": FIRST,
    }
    assert [phase.batch_norm for phase in phases] == ["train", "frozen", "train", "train"]


def test_auto_has_every_plan_of_the_portfolio():
    phases = phases_of(plans=("auto",))
    names = {"feature-extraction": "head"}
    assert {names.get(name, name) for name in PORTFOLIO} == {phase.name for phase in phases}


@pytest.mark.parametrize("name", PORTFOLIO)
def test_a_path_has_the_phases_of_the_plan_alone(name):
    phases = phases_of(plans=("auto",))
    alone = phases_of(plans=(name,))
    path = path_to(phases, {"feature-extraction": "head"}.get(name, name))
    found = [phase for phase in phases if phase.name in path]
    settings = ("trained", "kind", "learning_rate", "layer_decay", "epochs", "batch_norm")
    assert [[getattr(phase, one) for one in settings] for phase in found] == [
        [getattr(phase, one) for one in settings] for phase in alone
    ]


def test_one_plan_is_a_sequence():
    phases = phases_of(plan=("gradual", "2"))
    assert phases == phases_of(plan=("head", "last:1", "last:2"))
    assert starts_of(phases) == {"head": FIRST, "finetune-1": "head", "finetune-2": "finetune-1"}
    assert path_to(phases, "finetune-1") == ["head", "finetune-1"]


def test_plans_of_one_name_are_that_plan():
    assert phases_of(plans=("fine-tune",)) == phases_of(plan=("fine-tune",)) == phases_of()


def test_without_batch_norm_its_treatment_makes_no_other_plan():
    recipe = TransferRecipe(plans=("auto",))
    names = [phase.name for phase in recipe.phases(2, has_batch_norm=False)]
    assert names == ["head", "probe", "fine-tune-frozen", "full-fast"]
