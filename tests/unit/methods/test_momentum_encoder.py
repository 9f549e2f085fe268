import math

import pytest
import torch
from torch import nn

from ssl_transfer.data.transforms.augment import augment
from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods.base import make_views
from ssl_transfer.methods.momentum_encoder import (
    FIRST_VIEW,
    SECOND_VIEW,
    check_momentum,
    momentum_at,
    momentum_copy,
    momentum_update,
)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.9), (0.25, None), (0.5, 0.95), (1.0, 1.0)])
def test_momentum_rises_along_a_cosine(progress, expected):
    if expected is None:
        expected = 1.0 - 0.1 * (math.cos(math.pi / 4) + 1.0) / 2.0
    assert momentum_at(progress, start=0.9) == pytest.approx(expected, abs=1e-12)
    assert momentum_at(progress, start=0.9, schedule="constant") == 0.9


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_impossible_momentum_is_refused(momentum):
    with pytest.raises(InputError, match=f"momentum {momentum}: between 0 and 1"):
        check_momentum(momentum)


def test_a_copy_shares_nothing_and_gets_no_gradient():
    quick = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    slow = momentum_copy(quick)
    assert slow.training
    assert all(parameter.requires_grad for parameter in quick.parameters())
    for mine, theirs in zip(slow.parameters(), quick.parameters(), strict=True):
        assert not mine.requires_grad
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()


def test_following_moves_parameters_and_leaves_statistics():
    quick = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    slow = momentum_copy(quick)
    with torch.no_grad():
        for parameter in quick.parameters():
            parameter.add_(1.0)
        quick[1].running_mean.fill_(7.0)
    before = [parameter.clone() for parameter in slow.parameters()]
    momentum_update((slow, quick), momentum=0.9)
    for mine, old in zip(slow.parameters(), before, strict=True):
        assert torch.allclose(mine, old + 0.1, atol=1e-6)
    assert torch.equal(slow[1].running_mean, torch.zeros(2))


def test_views_are_made_each_in_its_own_way(make_batch):
    """Of the paper's table 6: one always blurred and never solarised, the other the other way round, more or less."""
    assert (FIRST_VIEW.blur, FIRST_VIEW.solarise, SECOND_VIEW.blur, SECOND_VIEW.solarise) == (1.0, 0.0, 0.1, 0.2)
    batch = make_batch(4)
    first, second = make_views(batch, 16, FIRST_VIEW, SECOND_VIEW)
    assert first.shape == second.shape == (4, 3, 16, 16)
    assert torch.equal(first, augment(batch.images, batch.keys, view=0, size=16, config=FIRST_VIEW))
    assert torch.equal(second, augment(batch.images, batch.keys, view=1, size=16, config=SECOND_VIEW))
