"""Loaders: fixed views, and classes drawn as often."""

import pytest
import torch

from ssl_transfer.data.loaders.loader import Loader, Sampling


@pytest.fixture
def load(make_dataset, runtime):
    def call(indices=None, *, batch_size=6, **sampling) -> Loader:
        dataset = make_dataset()
        indices = dataset.splits["train"] if indices is None else indices
        given = {"batch_size": batch_size, "seed": 3, "runtime": runtime, "labelled": True}
        return Loader(dataset, indices, **given, sampling=Sampling(**sampling))

    return call


def keys_by_image(loader: Loader, epoch: int) -> dict[int, int]:
    positions = torch.cat(loader.positions(epoch))
    keys = torch.cat([batch.keys for batch in loader.epoch(epoch)])
    return dict(zip(positions.tolist(), keys.tolist(), strict=True))


def test_every_epoch_has_its_own_views_unless_their_number_is_given(load):
    fresh = [keys_by_image(load(), epoch) for epoch in range(4)]
    assert all(len({keys[position] for keys in fresh}) == 4 for position in fresh[0])
    two = [keys_by_image(load(views=2), epoch) for epoch in range(4)]
    assert two[0] == two[2] == fresh[0]
    assert two[1] == two[3] == fresh[1]
    none = [keys_by_image(load(views=0), epoch) for epoch in range(2)]
    assert none[0] == none[1]


def test_the_order_does_not_depend_on_the_views(load):
    orders = [torch.cat(load(views=views).positions(5)).tolist() for views in (None, 0, 3)]
    assert orders[0] == orders[1] == orders[2]
    assert orders[0] != torch.cat(load().positions(4)).tolist()


def test_balanced_draws_each_class_as_often(load, make_dataset):
    labels = make_dataset().labels
    train = make_dataset().splits["train"]
    # Eight of the first class, two of the second, one of the third.
    of = [train[labels[train] == label] for label in range(3)]
    unlike = torch.cat([of[0], of[1][:2], of[2][:1]])
    loader = load(unlike, batch_size=11, balanced=True)
    drawn = torch.cat([torch.cat(loader.positions(epoch)) for epoch in range(30)])
    drawn = drawn % len(unlike)
    counts = torch.bincount(labels[unlike[drawn]], minlength=3)
    assert counts.sum() == 330
    assert counts.max() - counts.min() <= 30
    assert len(set(drawn.tolist())) == 11
    natural = torch.cat([torch.cat(load(unlike, batch_size=11).positions(epoch)) for epoch in range(30)])
    assert torch.bincount(labels[unlike[natural]], minlength=3).tolist() == [240, 60, 30]


def test_an_image_that_is_drawn_again_has_another_view(load, make_dataset):
    labels, train = make_dataset().labels, make_dataset().splits["train"]
    unlike = torch.cat([train[labels[train] == 0], train[labels[train] == 1][:1]])
    loader = load(unlike, batch_size=9, balanced=True)
    (batch,) = loader.epoch(0)
    (positions,) = loader.positions(0)
    rare = batch.labels == 1
    assert int(rare.sum()) >= 4
    assert len(set(batch.keys[rare].tolist())) == int(rare.sum())
    assert set((positions[rare] % 9).tolist()) == {8}
    # Fixed views are those that there are, however often an image is drawn.
    (fixed,) = load(unlike, batch_size=9, balanced=True, views=1).epoch(0)
    assert len(set(fixed.keys[rare].tolist())) == 1


def test_within_a_class_balanced_goes_through_all_images(load, make_dataset):
    train = make_dataset().splits["train"]
    positions = torch.cat(load(batch_size=24, balanced=True).positions(0))
    # Classes of one size: each image once.
    assert sorted(positions.tolist()) == list(range(len(train)))
