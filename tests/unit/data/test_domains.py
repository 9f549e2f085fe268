"""Two data sets side by side: channels, values, classes by name, and the pool of both."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_transfer.data import sources
from ssl_transfer.data.dataset import moments_of
from ssl_transfer.data.domains import Joined, Repeated, enlarged, pooled, together
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine.errors import InputError


class OnDisk:
    """Pixels that do not lie in memory."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.dtype = pixels, pixels.shape, pixels.dtype

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, indices):
        return self.pixels[indices]


@pytest.mark.parametrize("wrap", [lambda pixels: pixels, OnDisk])
@pytest.mark.parametrize("turned", [False, True])
def test_grey_becomes_colour_and_says_so(make_dataset, wrap, turned):
    grey, colour = make_dataset(channels=1), make_dataset(channels=3, size=20)
    grey = replace(grey, source="greys", pixels=wrap(grey.pixels), moments=moments_of(grey.pixels))
    first, second = together(colour, grey)[::-1] if turned else together(grey, colour)
    assert first.num_channels == second.num_channels == 3
    index = torch.tensor([5, 0])
    assert torch.equal(first.pixels[index], grey.pixels[index].repeat(1, 3, 1, 1))
    assert second is colour or second == colour
    assert any("greys: grey, repeated to 3" in note for note in first.notes)
    assert first.statistics() == tuple(3 * values for values in grey.statistics())
    batch = next(first.batches([index], torch.device("cpu")))
    assert batch.shape == (2, 3, 16, 16)


def test_equal_data_stay_as_they_are(make_dataset):
    source, target = make_dataset(), make_dataset(seed=1)
    assert together(source, target) == (source, target)


def test_classes_are_matched_by_name(make_dataset):
    source, target = make_dataset(), make_dataset(seed=1)
    named = replace(target, classes=("c", "a", "b"))
    _, numbered = together(source, named)
    assert numbered.classes == source.classes
    told = dict(enumerate(named.classes)) | {-1: None}
    now = dict(enumerate(source.classes)) | {-1: None}
    before = [told[label] for label in named.labels.tolist()]
    assert [now[label] for label in numbered.labels.tolist()] == before
    assert (numbered.labels == -1).sum() == 12


def test_a_target_without_labels_takes_the_sources_names(make_dataset):
    source, target = make_dataset(), make_dataset(seed=1)
    blank = replace(target, labels=torch.full_like(target.labels, -1), classes=())
    assert together(source, blank)[1].classes == source.classes


def test_labels_that_do_not_match_are_refused_with_their_names(make_dataset):
    source, target = make_dataset(), make_dataset(seed=1)
    with pytest.raises(InputError, match=r"labels do not match: only left has a; only right has wasp\."):
        together(replace(source, source="left"), replace(target, source="right", classes=("wasp", "b", "c")))
    fewer = replace(make_dataset(num_classes=2), source="right")
    with pytest.raises(InputError, match=r"only left has c\."):
        together(replace(source, source="left"), fewer)


def test_a_source_without_labels_is_refused(make_dataset):
    with pytest.raises(InputError, match="--source random: has no labels"):
        together(replace(make_dataset(), classes=()), make_dataset())


def test_other_channels_and_depths_are_refused(make_dataset):
    with pytest.raises(InputError, match="4 channels and the other domain 3, random: only grey"):
        together(make_dataset(channels=4), make_dataset())
    deep = make_dataset()
    deep = replace(deep, pixels=deep.pixels.to(torch.int16), value_range=(0.0, 900.0))
    with pytest.raises(InputError, match=r"uint8 and random holds int16: give both one range .*--loading\.value-range"):
        together(make_dataset(), deep)


def test_deep_images_are_read_within_one_range(make_dataset):
    first, second = (
        replace(one, pixels=one.pixels.to(torch.int16), value_range=limits)
        for one, limits in ((make_dataset(), (-5.0, 200.0)), (make_dataset(seed=1), (3.0, 255.0)))
    )
    ranges = [one.value_range for one in together(first, second)]
    assert ranges == [(-5.0, 255.0)] * 2


def test_smaller_images_are_enlarged_as_evaluation_does():
    pixels = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2) * 60
    by_hand = torch.tensor([[0, 15, 45, 60], [30, 45, 75, 90], [90, 105, 135, 150], [120, 135, 165, 180]])
    assert torch.equal(enlarged(pixels, 4)[0, 0].long(), by_hand)
    assert enlarged(pixels, 2) is pixels


def test_joined_pixels_are_those_of_both():
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (3, 2, 4, 4), generator=generator, dtype=torch.uint8)
    large = torch.randint(0, 256, (5, 2, 8, 8), generator=generator, dtype=torch.uint8)
    joined = Joined(small, OnDisk(large))
    assert (len(joined), tuple(joined.shape), joined.dtype) == (8, (8, 2, 8, 8), torch.uint8)
    assert torch.equal(joined[torch.tensor([7, 1, 3])], torch.cat([large[4:], enlarged(small[1:2], 8), large[:1]]))
    assert torch.equal(joined[torch.tensor([4])], large[1:2])


def test_repeated_pixels_look_like_colour():
    pixels = torch.arange(8).view(2, 1, 2, 2)
    repeated = Repeated(pixels)
    assert (len(repeated), tuple(repeated.shape)) == (2, (2, 3, 2, 2))
    assert torch.equal(repeated[torch.tensor([1])], pixels[1:].repeat(1, 3, 1, 1))


def test_a_union_is_the_first_with_the_seconds_pool(make_dataset):
    first, second = make_dataset(size=20), make_dataset(channels=1, seed=1, num_classes=2)
    both = pooled(first, second, source="both")
    assert both.classes == first.classes
    for part in ("train", "validation", "test"):
        assert torch.equal(both.splits[part], first.splits[part])
    added = both.splits["unlabeled"][len(first.splits["unlabeled"]) :]
    assert torch.equal(added, second.pool + len(first.labels))
    assert (both.labels[len(first.labels) :] == -1).all()
    assert len(both.pool) == len(first.pool) + len(second.pool)
    assert len(both.names) == len(both.labels) == len(both.pixels)
    assert both.pixels[added[:1]].shape == (1, 3, 20, 20)
    assert both.fingerprint not in (first.fingerprint, second.fingerprint)
    assert any("28 images of random in the pool" in note for note in both.notes)


def test_a_union_keeps_copies_of_tested_images_out(make_dataset):
    first, second = make_dataset(), make_dataset(seed=1)
    ours = np.arange(len(first.labels), dtype=np.uint64)
    theirs = ours + np.uint64(1000)
    pool = second.pool.numpy()
    theirs[pool[:3]] = [ours[first.splits["test"][0]], ours[first.splits["validation"][0]], ours[first.pool[0]]]
    both = pooled(replace(first, contents=ours), replace(second, contents=theirs), source="both")
    added = both.splits["unlabeled"][12:] - len(first.labels)
    assert added.tolist() == pool[2:].tolist()
    assert any("2 images of random are left out" in note for note in both.notes)


def test_the_union_of_both_digits():
    data = sources.load("union:digits,blended-digits", image_size=16, config=LoadingConfig())
    assert {part: len(index) for part, index in data.splits.items()} == {
        "unlabeled": 1146,
        "train": 1146,
        "validation": 201,
        "test": 450,
    }
    values = torch.cat(list(data.batches(data.pool.split(500), torch.device("cpu")))).double()
    # The digits are measured at 8 px and looked at here at 16.
    assert data.statistics()[0] == pytest.approx(values.mean(dim=(0, 2, 3)).tolist(), abs=1e-3)
    with pytest.raises(InputError, match="two with a comma"):
        sources.load("union:digits", image_size=16, config=LoadingConfig())
