import copy

import pytest
import torch
from torch import nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.early_stopping import Stopper, StoppingConfig, Watched

LOSS = Watched(metric="log_loss", higher_is_better=False)
ACCURACY = Watched(metric="accuracy", higher_is_better=True)


def module_at(epoch: int) -> nn.BatchNorm1d:
    """A module whose weights and buffers tell the epoch."""
    module = nn.BatchNorm1d(2)
    nn.init.constant_(module.weight, epoch)
    module.running_mean.fill_(epoch)
    return module


def watch(stopper: Stopper, values) -> list[bool]:
    over = []
    for epoch, value in enumerate(values, start=1):
        stopper.observe(value, epoch, module_at(epoch))
        over.append(stopper.over)
    return over


def test_a_loss_that_rests_ends_the_training():
    stopper = Stopper(patience=2, min_delta=0.0, watched=LOSS)
    assert watch(stopper, [3.0, 2.0, 2.5, 1.0, 1.0, 1.5]) == [False] * 5 + [True]
    module = module_at(0)
    stopper.restore(module)
    assert module.weight.tolist() == module.running_mean.tolist() == [4.0, 4.0]
    assert stopper.describe() == {
        "best_epoch": 4,
        "best_log_loss": 1.0,
        "evaluations_without_improvement": 2,
        "patience": 2,
    }


def test_an_accuracy_is_better_when_it_is_higher():
    stopper = Stopper(patience=1, min_delta=0.0, watched=ACCURACY)
    assert watch(stopper, [0.5, 0.6, 0.55]) == [False, False, True]
    assert stopper.best_epoch == 2


def test_small_improvements_do_not_count():
    values = [1.0, 0.96, 0.92, 0.88]
    assert watch(Stopper(patience=2, min_delta=0.0, watched=LOSS), values) == [False] * 4
    stopper = Stopper(patience=2, min_delta=0.1, watched=LOSS)
    assert watch(stopper, values) == [False, False, True, False]
    assert stopper.best_epoch == 4


def test_not_a_number_is_no_improvement():
    stopper = Stopper(patience=2, min_delta=0.0, watched=LOSS)
    assert watch(stopper, [float("nan"), 1.0, float("nan"), float("inf")]) == [False, False, False, True]
    assert stopper.best_epoch == 2


def test_without_a_best_the_weights_stay():
    stopper = Stopper(patience=1, min_delta=0.0, watched=LOSS)
    assert watch(stopper, [float("nan")]) == [True]
    module = module_at(7)
    stopper.restore(module)
    assert module.weight.tolist() == [7.0, 7.0]
    assert stopper.describe() == {"evaluations_without_improvement": 1, "patience": 1}


def test_without_patience_nothing_is_kept():
    stopper = Stopper(patience=0, min_delta=0.0, watched=LOSS)
    assert watch(stopper, [1.0, 2.0, 3.0]) == [False] * 3
    assert stopper.state_dict() == {}
    assert stopper.best_epoch is None


def test_the_best_weights_are_a_copy():
    stopper, module = Stopper(patience=1, min_delta=0.0, watched=LOSS), module_at(1)
    stopper.observe(1.0, 1, module)
    nn.init.zeros_(module.weight)
    stopper.restore(module)
    assert module.weight.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("cut", range(4))
def test_it_goes_on_from_its_state(cut):
    values = [3.0, 1.0, 2.0, 2.5]
    whole, before, after = (Stopper(patience=2, min_delta=0.0, watched=LOSS) for _ in range(3))
    watch(whole, values)
    for number, value in enumerate(values):
        if number == cut:
            after.load_state_dict(copy.deepcopy(before.state_dict()))
        (before if number < cut else after).observe(value, number + 1, module_at(number + 1))
    states = whole.state_dict(), after.state_dict()
    weights = [state.pop("weights") for state in states]
    assert states[0] == states[1] == {"best": 1.0, "epoch": 2, "waited": 2}
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert whole.over
    assert after.over


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patience": -1}, "patience -1"),
        ({"patience": 1, "min_delta": -0.1}, "min_delta -0.1"),
        ({"min_delta": 0.1}, "ignored without patience"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        StoppingConfig(**settings)


def test_a_metric_that_is_not_measured_is_named():
    with pytest.raises(InputError, match=r"gives accuracy, log_loss\. Did you mean log_loss"):
        Watched(metric="logloss", higher_is_better=False).value({"log_loss": 1.0, "accuracy": 0.5})
