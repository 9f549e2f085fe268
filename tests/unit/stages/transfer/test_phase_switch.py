"""Detect a sharp fall of accuracy at the start of a phase."""

import json

import pytest

from ssl_transfer.stages.transfer.phase_switch import falls, sentence
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe

SIZES = {"train": 100, "validation": 100}


@pytest.fixture
def fallen(tmp_path):
    """Find falls in a log with these training accuracies of the phases head and finetune, epoch by epoch."""

    def find(head, finetune, **settings):
        path = tmp_path / "metrics.jsonl"
        records = [
            {"phase": phase, "epoch": epoch, "step": epoch, "split": "train", "accuracy": accuracy}
            for phase, accuracies in (("head", head), ("finetune", finetune))
            for epoch, accuracy in enumerate(accuracies, start=1)
        ]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return falls(path, TransferRecipe(**settings).phases(steps_per_epoch=10), SIZES)

    return find


def test_a_fall_is_found_with_its_remedy(fallen):
    (found,) = fallen([0.5, 1.0], [0.5, 0.9])
    assert (found["phase"], found["split"], found["before"], found["after"]) == ("finetune", "train", 1.0, 0.5)
    assert sentence(found) == (
        "finetune: the accuracy of the training images fell from 100% to 50% at the start of this phase. Try "
        "--batch-norm frozen, a lower rate (rate=0.0003 in its line of --plan), or more --optimizer.warmup-steps."
    )


def test_frozen_statistics_are_not_recommended_twice(fallen):
    (found,) = fallen([1.0], [0.5], batch_norm="frozen")
    assert "--batch-norm" not in found["remedy"]


@pytest.mark.parametrize(
    ("head", "finetune"),
    [
        # Small, within the noise of 100 images, behind the start of the phase, or upwards.
        ([1.0], [0.92]),
        ([0.5], [0.35]),
        ([1.0], [1.0, 1.0, 1.0, 1.0, 0.4]),
        ([0.4], [0.9]),
        ([], [0.2]),
    ],
)
def test_other_courses_are_no_fall(head, finetune, fallen):
    assert fallen(head, finetune) == []
