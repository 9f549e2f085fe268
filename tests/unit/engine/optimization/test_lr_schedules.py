import itertools
import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ssl_transfer.engine.optimization.lr_schedules import Rates, warmup_cosine, warmup_inverse


def rates(schedule, *, higher_is_better=False, **settings) -> Rates:
    filled = {"num_steps": 20, "warmup_steps": 4, "plateau_factor": 0.5, "plateau_patience": 1, **settings}
    return Rates(schedule, higher_is_better=higher_is_better, **filled)


def test_warmup_cosine_at_points_known_in_closed_form():
    factor = [warmup_cosine(step, 110, 10) for step in range(111)]
    assert factor[0] == pytest.approx(0.1)
    assert factor[9] == factor[10] == 1.0
    assert factor[10 + 25] == pytest.approx(0.5 + math.sqrt(0.125))
    assert factor[10 + 50] == pytest.approx(0.5)
    assert factor[110] == pytest.approx(0.0, abs=1e-12)
    assert all(after < before for before, after in itertools.pairwise(factor[10:]))


def test_a_warmup_longer_than_the_training_is_cut_to_a_tenth():
    assert [warmup_cosine(step, 30, 50) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert warmup_cosine(0, 5, 5) == 1.0
    assert warmup_cosine(0, 1, 0) == 1.0


def test_cosine_is_a_function_of_the_step():
    cosine = rates("cosine")
    cosine.observe(float("nan"))
    assert [cosine.factor(step) for step in range(20)] == [warmup_cosine(step, 20, 4) for step in range(20)]
    assert cosine.state_dict() == {}


def test_inverse_at_points_known_in_closed_form():
    """mu(p) = mu / (1 + 10 p)^0.75: at p = 0, 0.1, 0.5 and 1."""
    factor = [warmup_inverse(step, 100, 0) for step in range(101)]
    assert factor[0] == 1.0
    assert [factor[10], factor[50], factor[100]] == pytest.approx([2**-0.75, 6**-0.75, 11**-0.75])
    warmed = [warmup_inverse(step, 110, 10) for step in range(111)]
    assert warmed[4] == pytest.approx(0.5)
    assert warmed[10:] == pytest.approx(factor)
    inverse = rates("inverse")
    inverse.observe(float("nan"))
    assert [inverse.factor(step) for step in range(20)] == [warmup_inverse(step, 20, 4) for step in range(20)]
    assert inverse.state_dict() == {}


def test_constant_stays_after_the_warmup():
    constant = rates("constant")
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        constant.observe(value)
    assert [constant.factor(step) for step in range(20)] == [0.25, 0.5, 0.75, *[1.0] * 17]


@pytest.mark.parametrize(("higher_is_better", "sign"), [(False, 1.0), (True, -1.0)])
def test_plateau_falls_after_patience_and_one_more(higher_is_better, sign):
    plateau, seen = rates("plateau", higher_is_better=higher_is_better), []
    for value in (3.0, 2.0, 2.0, 2.5, 2.0, float("nan"), 1.0):
        plateau.observe(sign * value)
        seen.append(plateau.factor(10))
    assert seen == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    # The warm-up's factor comes on top.
    assert plateau.factor(0) == 0.25 * 0.25


def test_plateau_is_torchs_scheduler():
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3)
    reference = ReduceLROnPlateau(optimizer, factor=0.3, patience=2, threshold=0.0)
    plateau = rates("plateau", plateau_factor=0.3, plateau_patience=2)
    values = torch.rand(40, generator=torch.Generator().manual_seed(0)).tolist()
    fallen = set()
    for value in values:
        reference.step(value)
        plateau.observe(value)
        fallen.add(plateau.factor(15))
        assert 0.3 * plateau.factor(15) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6, abs=1e-8)
    assert len(fallen) > 3


@pytest.mark.parametrize("cut", range(8))
def test_plateau_goes_on_from_its_state(cut):
    values = (3.0, 2.0, 2.0, 2.5, 2.0, 2.0, 1.0, 1.5)
    whole, before, after = (rates("plateau") for _ in range(3))
    for number, value in enumerate(values):
        whole.observe(value)
        if number == cut:
            after.load_state_dict(before.state_dict())
        (before if number < cut else after).observe(value)
    assert after.factor(15) == whole.factor(15) < 1.0
    assert after.state_dict() == whole.state_dict()
