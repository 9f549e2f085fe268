"""Mixup and CutMix: what each pixel and each label becomes, and the distribution of the shares."""

import numpy as np
import pytest
import torch
from scipy import stats

from ssl_transfer.data.transforms.mixup import mix
from ssl_transfer.engine.randomness import sample_keys

TARGETS = torch.eye(4)


def images() -> torch.Tensor:
    """Four images of one value each: 0, 1, 2, 3."""
    return torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16)


def keys(number: int) -> torch.Tensor:
    return sample_keys(number, 0, torch.arange(4))


def test_mixup_mixes_pixels_and_labels_alike():
    mixed, targets = mix(images(), TARGETS, keys(0), mixup=0.8, cutmix=0.0)
    share = targets[0, 0]
    assert 0.0 < share < 1.0
    assert torch.allclose(mixed, share * images() + (1 - share) * images().flip(0))
    assert torch.allclose(targets, share * TARGETS + (1 - share) * TARGETS.flip(0))


def test_mixup_s_share_is_beta_distributed():
    shares = [float(mix(images(), TARGETS, keys(number), mixup=0.4, cutmix=0.0)[1][0, 0]) for number in range(500)]
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


@pytest.mark.parametrize("number", range(20))
def test_cutmix_pastes_a_box_whose_area_is_the_label_s_share(number):
    mixed, targets = mix(images(), TARGETS, keys(number), mixup=0.0, cutmix=1.0)
    changed = mixed[0] == 3.0
    assert torch.equal(changed | (mixed[0] == 0.0), torch.ones(3, 16, 16, dtype=torch.bool))
    assert float(targets[0, 3]) == pytest.approx(float(changed.float().mean()))
    rows, columns = changed[0].any(dim=1), changed[0].any(dim=0)
    assert torch.equal(changed[0], rows[:, None] & columns[None, :])


def test_with_both_each_batch_draws_one():
    boxed = [
        bool(((m := mix(images(), TARGETS, keys(number), mixup=1.0, cutmix=1.0)[0][0]) % 3 == 0).all())
        for number in range(200)
    ]
    assert 60 < sum(boxed) < 140
    assert m.shape == (3, 16, 16)


def test_the_same_keys_mix_the_same_and_nothing_given_changes():
    before = images().clone()
    first = mix(before, TARGETS, keys(3), mixup=1.0, cutmix=1.0)
    second = mix(before, TARGETS, keys(3), mixup=1.0, cutmix=1.0)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert torch.equal(before, images())
    assert np.isclose(first[1].sum(dim=1), 1.0).all()
