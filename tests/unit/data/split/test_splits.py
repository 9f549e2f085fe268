import hashlib
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssl_transfer.data import sources
from ssl_transfer.data.sources import LoadingConfig
from ssl_transfer.data.split import splits
from ssl_transfer.engine.errors import InputError
from ssl_transfer.stages.transfer.config import TransferConfig
from ssl_transfer.stages.transfer.setup import labelled_images

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


def random_case(seed: int):
    """Images of three classes of unequal sizes, some of them in groups, some groups across classes."""
    generator = np.random.default_rng(seed)
    size = int(generator.integers(40, 300))
    labels = generator.choice(3, size=size, p=[0.5, 0.3, 0.2])
    own = generator.integers(0, 25, size=size)
    # Most groups hold one class, as a patient does.
    groups = np.where(generator.random(size) < 0.1, own, 25 * (labels + 1) + own)
    groups = np.where(generator.random(size) < 0.3, -1, groups)
    return labels, groups, np.sort(generator.choice(size, size=size - 5, replace=False))


@pytest.mark.parametrize("seed", range(60))
def test_groups_never_straddle(seed):
    labels, groups, indices = random_case(seed)
    for fraction in (0.05, 0.25, 0.6):
        rest, share = splits.divide(indices, labels, CLASSES, fraction=fraction, seed=seed, stream=1, groups=groups)
        assert sorted([*rest, *share]) == indices.tolist()
        joined = set(groups[share]) & set(groups[rest])
        assert joined <= {-1}
        assert set(labels[share]) == set(labels[rest]) == {0, 1, 2}
        again = splits.divide(indices, labels, CLASSES, fraction=fraction, seed=seed, stream=1, groups=groups)
        assert np.array_equal(again[1], share)


def test_groups_stay_near_to_stratified():
    labels = np.repeat(np.arange(3), [300, 200, 100])
    for seed in range(20):
        groups = 1000 * labels + np.random.default_rng(seed).integers(0, 40, size=600)
        _, share = splits.divide(np.arange(600), labels, CLASSES, fraction=0.25, seed=seed, stream=1, groups=groups)
        # Groups of about 7, 5 and 2.5 images: at most half of one too many or too few.
        assert np.abs(np.bincount(labels[share]) - [75, 50, 25]).max() <= 5


def test_large_groups_have_no_advantage():
    """A group stands where its first image does: its chance to be in the share does not grow with its size."""
    labels, groups = np.zeros(100, dtype=np.int64), np.full(100, -1)
    groups[:10] = 0
    taken = [
        0 in splits.divide(np.arange(100), labels, ["a"], fraction=0.3, seed=seed, stream=1, groups=groups)[1]
        for seed in range(400)
    ]
    assert 0.2 < np.mean(taken) < 0.4


def test_without_groups_the_division_is_that_of_the_first_version():
    """Published numbers hang on it; the values are from the version before groups."""
    labels = np.array([0] * 40 + [1] * 20 + [2] * 3 + [-1] * 5)
    golden = [4, 10, 11, 14, 20, 21, 23, 24, 34, 39, 44, 45, 51, 54, 59, 61]
    generator = np.random.default_rng(0)
    many = generator.integers(0, 7, size=1000)
    indices = np.sort(generator.choice(1000, 800, replace=False))
    for alone in (False, True):
        groups = np.arange(len(labels))[::-1] if alone else None
        _, share = splits.divide(np.arange(68), labels, CLASSES, fraction=0.25, seed=0, stream=1, groups=groups)
        assert share.tolist() == golden
        groups = np.where(np.arange(1000) % 2, -1, np.arange(1000)) if alone else None
        digest = hashlib.sha256()
        for seed, fraction, stream in itertools.product(range(20), (0.01, 0.15, 0.25, 0.5, 0.99), (1, 2)):
            rest, share = splits.divide(
                indices, many, list("abcdefg"), fraction=fraction, seed=seed, stream=stream, groups=groups
            )
            digest.update(share.astype(np.int64).tobytes() + rest.astype(np.int64).tobytes())
        assert digest.hexdigest()[:16] == "d634152aecf8fcd6"


def test_a_class_in_one_group_is_named():
    labels, groups = np.array([0, 0, 0, 1, 1, 1]), np.array([-1, -1, -1, 7, 7, 7])
    with pytest.raises(InputError, match=r"'dog': all of its 3 images belong to one group.*something finer"):
        splits.divide(np.arange(6), labels, CLASSES[:2], fraction=0.3, seed=0, stream=1, groups=groups)


def test_groups_that_chain_classes_are_named():
    # Two groups, each of which holds all but one class's last images.
    labels, groups = np.array([0, 0, 1, 1, 2, 2]), np.array([1, 2, 2, 3, 3, 1])
    for seed in range(5):
        with pytest.raises(InputError, match="cannot be divided, because each holds the last images"):
            splits.divide(np.arange(6), labels, CLASSES, fraction=0.4, seed=seed, stream=1, groups=groups)


def test_groups_larger_than_the_share_give_the_smallest():
    labels, groups = np.zeros(60, dtype=np.int64), np.repeat([0, 1, 2], [30, 20, 10])
    for seed in range(5):
        _, share = splits.divide(np.arange(60), labels, ["a"], fraction=0.05, seed=seed, stream=1, groups=groups)
        assert share.tolist() == list(range(50, 60))


def test_partners():
    groups = np.array([4, -1, 4, 7, -1, 7, 4])
    assert splits.partners(np.array([0, 1]), groups, np.array([2, 3, 4, 6])).tolist() == [2, 6]
    assert splits.partners(np.array([], dtype=np.int64), groups, np.array([2, 3])).tolist() == []


def same_partition(codes: np.ndarray, expected: list) -> bool:
    """Equal groups, whatever their codes; None stands alone."""
    alone = [code < 0 for code in codes] == [value is None for value in expected]
    pairs = {(code, value) for code, value in zip(codes.tolist(), expected, strict=True) if value is not None}
    return alone and len(pairs) == len({code for code, _ in pairs}) == len({value for _, value in pairs})


def test_groups_from_pattern():
    names = ["train/patient1_a.png", "train/patient12_b.png", "val/patient1_c.png"]
    codes = splits.groups_from_pattern(names, r"patient(\d+)")
    assert codes.dtype == np.int64
    assert same_partition(codes, ["1", "12", "1"])
    assert same_partition(splits.groups_from_pattern(names, r"patient\d+"), ["1", "12", "1"])
    two = ["a1/x", "a1/y", "a11/x", "a1/x"]
    assert same_partition(splits.groups_from_pattern(two, r"a(\d+)/(.)"), ["1x", "1y", "11x", "1x"])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not a regular expression"),
        (r"patient(\d+)", r"does not match 4 of 5 names \(a\.png, b\.png, c\.png, \.\.\.\)"),
        (r"(png|jpg)", "all images in one group"),
        (r"(.*)\.png", "every image alone"),
    ],
)
def test_patterns_that_divide_nothing(pattern, message):
    with pytest.raises(InputError, match=message):
        splits.groups_from_pattern(["a.png", "b.png", "c.png", "d.png", "patient1.png"], pattern)


def test_groups_from_values():
    assert same_partition(splits.groups_from_values(["x", "y", " x ", "", "\0"]), ["x", "y", "x", None, None])
    assert same_partition(splits.groups_from_values(np.array([3, 1, 3])), [3, 1, 3])
    assert splits.groups_from_values([]).shape == (0,)


def test_groups_from_coordinates():
    codes = splits.groups_from_coordinates(["0", "9.9", "10", "-0.1", "5"], [0, 9, 0, 0, 3], block=10.0)
    assert same_partition(codes, ["a", "a", "b", "c", "a"])
    with pytest.raises(InputError, match="1 of 2 coordinates are no numbers \\('east'\\)"):
        splits.groups_from_coordinates(["1", "east"], [1, 2], block=1.0)
    with pytest.raises(InputError, match=r"--loading\.block 0"):
        splits.groups_from_coordinates([1], [2], block=0.0)


def test_merged_groups_are_connected_components():
    first, second = np.array([0, 0, -1, -1, 3, -1]), np.array([-1, 5, 5, 8, -1, 8])
    assert same_partition(splits.merge_groups(first, second), ["a", "a", "a", "b", None, "b"])
    assert splits.merge_groups(np.full(3, -1)).tolist() == [-1, -1, -1]
    for seed in range(10):
        generator = np.random.default_rng(seed)
        groups = [generator.integers(-1, 30, size=60) for _ in range(2)]
        expected = np.arange(60)
        for _ in range(60):
            for codes in groups:
                for code in range(30):
                    expected[codes == code] = expected[codes == code].min(initial=60)
        lone = np.bincount(expected, minlength=60)[expected] == 1
        assert same_partition(
            splits.merge_groups(*groups),
            [None if alone else value for alone, value in zip(lone, expected, strict=True)],
        )


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


@pytest.mark.parametrize(
    ("text", "expected", "name"),
    [
        ("all", None, "all"),
        ("1", 1, "1"),
        ("020", 20, "20"),
        ("0.1", 0.1, "0.1"),
        (".10", 0.1, "0.1"),
        ("10%", 0.1, "0.1"),
        ("7%", 0.07, "0.07"),
        ("12.5%", 0.125, "0.125"),
        ("29%", 0.29, "0.29"),
    ],
)
def test_parse_budget(text, expected, name):
    found = splits.parse_budget(text)
    assert found == expected
    assert type(found) is type(expected)
    assert splits.budget_name(text) == name
    assert splits.budget_name(name) == name


REFUSED = ["0", "-1", "1.5", "1.0", "0.0", "0%", "100%", "150%", "-5%", "1e-2", "many", "", "%", ".", "nan", "\u0665"]


@pytest.mark.parametrize("text", REFUSED)
def test_parse_budget_refuses(text):
    with pytest.raises(InputError, match=f"--labels {text}: write a number .* or 10%"):
        splits.parse_budget(text)


@pytest.mark.parametrize("stream", [LABELED, VALIDATION])
def test_fractions_are_of_each_class_and_nested(stream):
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 3)
    indices = torch.arange(73)
    for seed in range(5):
        drawn = [
            splits.budget(indices, labels, CLASSES, per_class=size, seed=seed, stream=stream)
            for size in (0.01, 1, 0.1, 0.5, 0.99, None)
        ]
        assert [torch.bincount(labels[found], minlength=3).tolist() for found in drawn] == [
            [1, 1, 1],
            [1, 1, 1],
            [5, 2, 1],
            [25, 10, 2],
            [50, 20, 3],
            [50, 20, 3],
        ]
        for small, large in itertools.pairwise(drawn):
            assert set(small.tolist()) <= set(large.tolist())


def test_validation_takes_a_number_for_every_class():
    few = torch.arange(90, 102)
    assert counts(budget([1, 3, 9], stream=VALIDATION, indices=few)) == [1, 3, 4]


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


def test_of_a_share_validation_holds_at_most_what_training_took():
    labels = torch.tensor([0] * 60 + [1] * 20 + [0] * 40 + [1] * 40 + [0, 1])
    parts = torch.tensor([0, 80, 160, 162]).diff().tolist()
    train, validation, test = torch.arange(162).split(parts)
    dataset = SimpleNamespace(
        labels=labels, classes=("cat", "dog"), splits={"train": train, "validation": validation, "test": test}
    )
    for text, expected in (("10%", [6, 2]), ("0.1", [6, 2]), ("3", [3, 3]), ("0.99", [59, 20]), ("all", [60, 20])):
        drawn = labelled_images(TransferConfig(labels=text, seed=1), dataset)
        sizes = [torch.bincount(labels[found], minlength=2).tolist() for found in (drawn.train, drawn.validation)]
        assert sizes[0] == expected
        assert sizes[1] == ([40, 40] if text == "all" else [min(40, count) for count in expected])
