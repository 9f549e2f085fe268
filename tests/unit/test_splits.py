import itertools

import numpy as np
import pytest
import torch

from ssl_transfer.data import sources, splits
from ssl_transfer.data.sources import LoadingConfig
from ssl_transfer.engine.errors import InputError

CLASSES = ("cat", "dog", "owl")
LABELS = torch.arange(120) % 3
LABELED, VALIDATION = splits.LABELED, splits.VALIDATION


def budget(per_class, *, seed=0, stream=LABELED, indices=None, labels=LABELS):
    indices = torch.arange(0, 90) if indices is None else indices
    return splits.budget(indices, labels, CLASSES, per_class=per_class, seed=seed, stream=stream)


def counts(chosen: torch.Tensor) -> list[int]:
    return torch.bincount(LABELS[chosen], minlength=3).tolist()


def test_divide_is_stratified_and_disjoint():
    labels = np.array([0] * 40 + [1] * 20 + [2] * 3)
    indices = np.arange(len(labels))
    rest, share = splits.divide(indices, labels, list(CLASSES), fraction=0.25, seed=0, stream=1)
    assert np.bincount(labels[share]).tolist() == [10, 5, 1]
    assert not set(rest) & set(share)
    assert sorted([*rest, *share]) == indices.tolist()
    again = splits.divide(indices, labels, list(CLASSES), fraction=0.25, seed=0, stream=1)
    assert np.array_equal(again[1], share)
    other = splits.divide(indices, labels, list(CLASSES), fraction=0.25, seed=1, stream=1)
    assert not np.array_equal(other[1], share)


def test_divide_leaves_and_takes_at_least_one():
    labels = np.array([0, 0, 1, 1])
    for fraction in (0.01, 0.99):
        rest, share = splits.divide(np.arange(4), labels, ["a", "b"], fraction=fraction, seed=0, stream=1)
        assert labels[rest].tolist() == labels[share].tolist() == [0, 1]


def test_divide_names_a_class_that_is_too_small():
    with pytest.raises(InputError, match="'b' has 1 image"):
        splits.divide(np.arange(3), np.array([0, 0, 1]), ["a", "b"], fraction=0.5, seed=0, stream=1)


@pytest.mark.parametrize("per_class", [1, 5, 20, 30])
def test_budgets_have_the_asked_length(per_class):
    chosen = budget(per_class)
    assert counts(chosen) == [per_class] * 3
    assert len(set(chosen.tolist())) == 3 * per_class
    assert int(chosen.max()) < 90


def test_all_takes_all():
    assert torch.equal(budget(None), torch.arange(90))


@pytest.mark.parametrize("stream", [LABELED, VALIDATION])
def test_smaller_budgets_lie_inside_larger(stream):
    for seed in range(5):
        chosen = [set(budget(size, seed=seed, stream=stream).tolist()) for size in (1, 2, 5, 20, None)]
        for small, large in itertools.pairwise(chosen):
            assert small < large


def test_budgets_differ_by_seed_and_repeat_with_it():
    drawn = {tuple(budget(5, seed=seed).tolist()) for seed in range(10)}
    assert len(drawn) == 10
    assert torch.equal(budget(5, seed=3), budget(5, seed=3))


def test_validation_takes_what_there_is():
    few = torch.arange(90, 102)
    assert counts(budget(2, stream=VALIDATION, indices=few)) == [2, 2, 2]
    assert counts(budget(20, stream=VALIDATION, indices=few)) == [4, 4, 4]


def test_too_large_a_budget_names_the_class():
    indices = torch.cat([torch.arange(0, 90), torch.arange(90, 120)[LABELS[90:] != 1]])
    with pytest.raises(InputError, match="--labels 31: class 'dog' has only 30 training images"):
        budget(31, indices=indices)


@pytest.mark.parametrize(("text", "expected"), [("all", None), ("1", 1), ("20", 20)])
def test_parse_budget(text, expected):
    assert splits.parse_budget(text) == expected


@pytest.mark.parametrize("text", ["0", "-1", "0.5", "5%", "many", ""])
def test_parse_budget_refuses(text):
    with pytest.raises(InputError, match="--labels"):
        splits.parse_budget(text)


def test_other_test_labels_change_nothing_that_is_chosen():
    changed = LABELS.clone()
    changed[102:] = (changed[102:] + 1) % 3
    train, validation = torch.arange(0, 90), torch.arange(90, 102)
    for per_class in (1, 4, None):
        for stream, indices in ((LABELED, train), (VALIDATION, validation)):
            before = budget(per_class, stream=stream, indices=indices)
            assert torch.equal(before, budget(per_class, stream=stream, indices=indices, labels=changed))


def test_digits_are_divided_once_and_for_all_seeds():
    data = sources.load("digits", image_size=16, config=LoadingConfig())
    sizes = {name: len(index) for name, index in data.splits.items()}
    assert sizes == {"unlabeled": 0, "train": 1146, "validation": 201, "test": 450}
    every = torch.cat(list(data.splits.values()))
    assert torch.equal(every.sort().values, torch.arange(1797))
    other = sources.load("digits", image_size=16, config=LoadingConfig(split_seed=1))
    assert not torch.equal(other.splits["test"], data.splits["test"])
    assert other.fingerprint != data.fingerprint
