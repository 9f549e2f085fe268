"""Assign images to parts: copies and near duplicates never on two sides."""

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.data.dataset import PARTS
from ssl_transfer.data.split.assemble import leaks
from ssl_transfer.engine.errors import InputError

TRAIN, VALIDATION, TEST, POOL = (PARTS.index(name) for name in ("train", "validation", "test", "unlabeled"))


def names(data, part: str) -> set[str]:
    return {str(data.names[index]) for index in data.splits[part].tolist()}


def test_leaks_are_groups_on_two_sides():
    parts = np.array([TRAIN, POOL, TRAIN, TEST, VALIDATION, TEST, TEST, -1, TRAIN])
    codes = np.array([0, 0, 1, 1, 2, 2, 3, 4, 4])
    # Training and unlabelled images are one side, and what is left out is on none.
    assert leaks(parts, codes).tolist() == [False, False, True, True, True, True, False, False, False]
    assert not leaks(parts, np.full(9, -1)).any()


@pytest.fixture
def leaking(root, scatter):
    """A copy of a test image in training, another in unlabeled, and one of validation in training."""
    for index in range(6):
        scatter(root / "train" / "ab"[index % 2] / f"{index}.png", index)
        scatter(root / "test" / "ab"[index % 2] / f"{index}.png", 100 + index)
        scatter(root / "val" / "ab"[index % 2] / f"{index}.png", 200 + index)
        scatter(root / "unlabeled" / f"{index}.png", 300 + index)
    scatter(root / "train" / "a" / "copy.png", 100)
    scatter(root / "train" / "a" / "copy_of_validation.png", 202)
    scatter(root / "unlabeled" / "copy.png", 101)


def test_copies_across_parts_stop(load, leaking):
    with pytest.raises(
        InputError, match=r"3 images have exact copies in several parts .*test/a/0\.png = train/a/copy\.png"
    ):
        load()


def test_copies_can_be_left_out(load, leaking):
    data = load(leakage="drop")
    assert {len(data.splits[name]) for name in data.splits} == {6}
    assert names(data, "train") == {f"train/{'ab'[index % 2]}/{index}.png" for index in range(6)}
    assert any("3 copies are left out" in note for note in data.notes)


def test_copies_can_be_allowed(load, leaking):
    data = load(leakage="allow")
    assert len(data.splits["train"]) == 8
    assert any(note.startswith("warning: 3 images have exact copies") for note in data.notes)
    assert data.fingerprint != load(leakage="drop").fingerprint


@pytest.mark.parametrize("seed", range(4))
def test_exact_copies_stay_on_one_side_of_a_division(load, root, scatter, seed):
    for index in range(20):
        for copy in range(1 + index % 2):
            scatter(root / "ab"[index % 2] / f"{index}-{copy}.png", index)
    data = load(split_seed=seed)
    sides = [{name.split("-")[0] for name in names(data, part)} for part in ("train", "validation", "test")]
    assert len(set.union(*sides)) == sum(map(len, sides)) == 20
    assert any("20 of the images to divide lie in 10 group" in note for note in data.notes)


def test_near_duplicates_stay_on_one_side_too(load, root, scatter):
    for index in range(30):
        path = scatter(root / "ab"[index % 2] / f"{index}-0.png", index, side=64)
        Image.open(path).save(path.with_name(f"{index}-1.jpg"), quality=70)
    for seed in range(3):
        data = load(near_duplicates="together", split_seed=seed, stored_size=64)
        sides = [{name.split("-")[0] for name in names(data, part)} for part in ("train", "validation", "test")]
        assert len(set.union(*sides)) == sum(map(len, sides)) == 30
    free = load(near_duplicates="free")
    parted = {name.split("-")[0] for name in names(free, "test")} & {
        name.split("-")[0] for name in names(free, "train")
    }
    assert parted


def test_unlabelled_partners_of_test_images_are_left_out(load, root, scatter):
    for index in range(20):
        scatter(root / "train" / "ab"[index % 2] / f"{index}.png", index)
        scatter(root / "unlabeled" / f"{index}.png", index)
        scatter(root / "unlabeled" / f"own{index}.png", 100 + index)
    data = load()
    held_out = len(data.splits["test"]) + len(data.splits["validation"])
    assert len(data.splits["unlabeled"]) == 40 - held_out
    kept = {name.split("/")[-1] for name in names(data, "unlabeled")}
    assert not kept & {name.split("/")[-1] for name in names(data, "test") | names(data, "validation")}


def test_groups_that_the_data_itself_parts_are_said(load, root, scatter):
    for index in range(8):
        scatter(root / "train" / "ab"[index % 2] / f"p{index % 4}-{index}.png", index)
        scatter(root / "test" / "ab"[index % 2] / f"p{index % 4}-{index}.png", 100 + index)
    data = load(group_by=r"(p\d)-")
    assert any("4 groups of --loading.group-by" in note for note in data.notes)


def test_a_group_in_which_a_whole_class_lies(load, root, scatter):
    for index in range(8):
        scatter(root / "ab"[index % 2] / f"{'ab'[index % 2]}-{index}.png", index)
    with pytest.raises(InputError, match="belong to one group"):
        load(group_by=r"/(a|b)-")


def test_the_fingerprint_changes_with_pixels_labels_and_parts(load, root, scatter, tmp_path):
    for index in range(12):
        scatter(root / "ab"[index % 2] / f"{index}.png", index)
    first = load().fingerprint
    assert load().fingerprint == first
    assert load(split_seed=1).fingerprint != first
    (root / "a" / "0.png").rename(root / "b" / "00.png")
    assert load().fingerprint != first
