"""Batches of two domains: everything is seen, labels of the target never, and every process has both."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ssl_transfer.data.domains import together
from ssl_transfer.data.loaders.two_domains import Domain, DomainLoader
from ssl_transfer.engine.errors import InputError


def runtime_of(index: int = 0, count: int = 1) -> Any:
    return SimpleNamespace(num_processes=count, process_index=index, device=torch.device("cpu"))


def numbered(make_dataset: Callable, *, size: int = 16, channels: int = 3, start: int = 0) -> Any:
    """Each image is of one colour, its number from `start`."""
    dataset = make_dataset(size=size, channels=channels)
    values = torch.arange(len(dataset.labels)) + start
    pixels = values.to(torch.uint8)[:, None, None, None].expand(-1, channels, size, size).contiguous()
    return dataclasses.replace(dataset, pixels=pixels)


def loader_of(make_dataset: Callable, *, batch_size: int = 8, index: int = 0, count: int = 1, **settings: Any) -> Any:
    source, target = numbered(make_dataset), numbered(make_dataset, start=100)
    indices = {"source_indices": source.splits["train"], "target_indices": target.pool} | settings
    domains = Domain(source, indices.pop("source_indices")), Domain(target, indices.pop("target_indices"))
    return DomainLoader(*domains, batch_size=batch_size, seed=0, runtime=runtime_of(index, count), **indices)


def seen(batches: list) -> torch.Tensor:
    return torch.cat([(batch.images[:, 0, 0, 0] * 255).round().long() for batch in batches])


@pytest.mark.parametrize(
    ("sources", "targets"), [(24, 36), (5, 36), (24, 4), (24, 25)], ids=["shorter", "tiny source", "tiny target", "odd"]
)
def test_every_image_of_both_is_seen_in_an_epoch(sources: int, targets: int, make_dataset: Callable) -> None:
    source_indices, target_indices = torch.arange(12, 36)[:sources], torch.arange(36)[:targets]
    loader = loader_of(make_dataset, source_indices=source_indices, target_indices=target_indices)
    orders = []
    for epoch in range(2):
        batches = list(loader.epoch(epoch))
        assert len(batches) == loader.steps_per_epoch == max(-(-sources // 4), -(-targets // 4))
        values = seen(batches)
        assert set(values[values < 100].tolist()) == set(source_indices.tolist())
        assert set(values[values >= 100].tolist()) == set((target_indices + 100).tolist())
        orders.append(values.tolist())
    assert orders[0] != orders[1]


def test_source_stands_first_with_labels_and_the_target_has_none(make_dataset: Callable) -> None:
    loader = loader_of(make_dataset)
    assert (loader.batch_size, loader.source_share) == (8, 0.5)
    for batch in loader.epoch(0):
        values = (batch.images[:, 0, 0, 0] * 255).round()
        assert (values[:4] < 100).all()
        assert (values[4:] >= 100).all()
        assert (batch.labels[:4] == values[:4].long() % 3).all()
        assert (batch.labels[4:] == -1).all()


def test_labels_of_the_target_do_not_reach_it(make_dataset: Callable) -> None:
    loader = loader_of(make_dataset, target_indices=torch.arange(12, 36))
    assert all((batch.labels[4:] == -1).all() for batch in loader.epoch(0))


def test_shorter_domain_goes_round_in_other_orders_with_other_keys(make_dataset: Callable) -> None:
    loader = loader_of(make_dataset, source_indices=torch.arange(12, 20))
    batches = list(loader.epoch(0))
    values = torch.cat([(batch.images[:4, 0, 0, 0] * 255).round().long() for batch in batches])
    keys = torch.cat([batch.keys[:4] for batch in batches])
    turns = values.split(8)
    assert len(turns) > 2
    assert all(sorted(turn.tolist()) == list(range(12, 20)) for turn in turns[:-1])
    assert turns[0].tolist() != turns[1].tolist()
    # One image has another view each time.
    assert len(keys.unique()) == len(keys)


def test_domains_share_no_keys(make_dataset: Callable) -> None:
    keys = torch.cat([batch.keys for batch in loader_of(make_dataset).epoch(0)])
    assert len(keys.unique()) == len(keys)


@pytest.mark.parametrize("source_share", [0.5, 0.25])
def test_processes_share_batches_and_each_has_both_domains(source_share: float, make_dataset: Callable) -> None:
    settings = {"batch_size": 16, "source_share": source_share}
    whole = list(loader_of(make_dataset, **settings).epoch(1))
    parts = [list(loader_of(make_dataset, index=index, count=2, **settings).epoch(1)) for index in range(2)]
    count = round(8 * source_share)
    for together_, first, second in zip(whole, *parts, strict=True):
        for part in (first, second):
            assert (part.labels[:count] >= 0).all()
            assert (part.labels[count:] == -1).all()
        assert sorted(together_.keys.tolist()) == sorted([*first.keys.tolist(), *second.keys.tolist()])


def test_too_small_a_batch_for_the_processes_is_refused(make_dataset: Callable) -> None:
    with pytest.raises(InputError, match="each of 4 processes needs images of both domains"):
        loader_of(make_dataset, batch_size=6, count=4)


@pytest.mark.parametrize("sizes", [(16, 8), (8, 16)])
def test_stored_sizes_are_made_equal(sizes: tuple[int, int], make_dataset: Callable) -> None:
    source, target = numbered(make_dataset, size=sizes[0]), numbered(make_dataset, size=sizes[1], start=100)
    loader = DomainLoader(
        Domain(source, source.splits["train"]),
        Domain(target, target.pool),
        batch_size=8,
        seed=0,
        runtime=runtime_of(),
    )
    batch = next(iter(loader.epoch(0)))
    assert batch.images.shape == (8, 3, 16, 16)
    assert ((batch.images[4:] * 255) >= 99.9).all()


# The domains


def test_classes_are_matched_by_name(make_dataset: Callable) -> None:
    source, target = make_dataset(), dataclasses.replace(make_dataset(), classes=("c", "a", "b"))
    _, found = together(source, target)
    assert found.classes == ("a", "b", "c")
    known = target.labels >= 0
    for before, after in zip(target.labels[known].tolist(), found.labels[known].tolist(), strict=True):
        assert target.classes[before] == found.classes[after]
    assert (found.labels[~known] == -1).all()


def test_other_classes_are_refused_with_their_names(make_dataset: Callable) -> None:
    target = dataclasses.replace(make_dataset(), classes=("a", "b", "zebra"))
    with pytest.raises(InputError, match=r"labels do not match: only random has c; only random has zebra"):
        together(make_dataset(), target)


def test_grey_is_repeated_and_said(make_dataset: Callable) -> None:
    source, target = together(make_dataset(channels=1), make_dataset(channels=3))
    assert source.num_channels == target.num_channels == 3
    assert source.pixels[torch.tensor([0, 5])].shape == (2, 3, 16, 16)
    assert "grey, repeated to 3 channels" in source.notes[-1]
    mean, _ = source.statistics()
    assert mean[0] == mean[1] == mean[2]
    with pytest.raises(InputError, match="2 channels and the other domain 3"):
        together(make_dataset(channels=2), make_dataset(channels=3))


def test_a_target_without_labels_takes_the_names(make_dataset: Callable) -> None:
    bare = dataclasses.replace(make_dataset(), classes=())
    assert together(make_dataset(), bare)[1].classes == ("a", "b", "c")
    with pytest.raises(InputError, match="has no labels"):
        together(bare, make_dataset())
