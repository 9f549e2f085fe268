"""Batches of labelled images and of the pool: how many of each, which, and that no label of the pool is handed on."""

from collections.abc import Callable

import pytest
import torch

from ssl_transfer.data.loaders.labelled_and_pool import MixedLoader
from ssl_transfer.data.loaders.loader import Loader, Sampling
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.stages.distill.teacher_batches import batch_sizes


@pytest.fixture
def make_mixed(make_dataset: Callable, runtime: object) -> Callable[..., MixedLoader]:
    def make(labelled: int = 10, sizes: tuple[int, int] = (3, 5), views: int | None = None) -> MixedLoader:
        dataset = make_dataset()
        shared = {"seed": 0, "runtime": runtime, "sampling": Sampling(views=views)}
        return MixedLoader(
            Loader(dataset, dataset.splits["train"][:labelled], batch_size=sizes[0], labelled=True, **shared),
            Loader(dataset, dataset.pool, batch_size=sizes[1], labelled=False, **shared),
        )

    return make


def test_every_batch_has_both_and_only_one_with_labels(make_mixed: Callable) -> None:
    mixed = make_mixed()
    assert (mixed.batch_size, mixed.steps_per_epoch) == (8, 36 // 5)
    batches = list(mixed.epoch(0))
    assert len(batches) == mixed.steps_per_epoch
    for batch in batches:
        assert batch.images.shape == (8, 3, 16, 16)
        assert bool((batch.labels[:3] >= 0).all())
        assert batch.labels[3:].tolist() == [-1] * 5


def test_an_epoch_goes_once_through_the_pool_and_never_beyond(make_mixed: Callable, make_dataset: Callable) -> None:
    dataset = make_dataset()
    keys = torch.cat([batch.keys[3:] for batch in make_mixed().epoch(2)])
    pool = sample_keys(0, 2, dataset.pool)
    assert len(keys.unique()) == 35
    assert bool(torch.isin(keys, pool).all())
    for part in ("validation", "test"):
        assert not bool(torch.isin(keys, sample_keys(0, 2, dataset.splits[part])).any())


def test_labelled_images_go_on_where_the_epoch_before_ended(make_mixed: Callable) -> None:
    """Of ten images three a step: the steps of two epochs are those of one loader, epoch after epoch."""
    mixed = make_mixed()
    drawn = [batch.keys[:3].tolist() for epoch in range(2) for batch in mixed.epoch(epoch)]
    alone = [batch.keys.tolist() for epoch in range(5) for batch in mixed.labelled.epoch(epoch)]
    assert drawn == alone[:14]
    assert [batch.keys[:3].tolist() for batch in mixed.epoch(1)] == drawn[7:]


def test_fixed_views_have_few_keys(make_mixed: Callable) -> None:
    mixed = make_mixed(views=2)
    keys = torch.cat([batch.keys for epoch in range(6) for batch in mixed.epoch(epoch)])
    assert len(keys.unique()) == 2 * 36


@pytest.mark.parametrize(
    ("batch", "share", "labelled", "pool", "processes", "expected"),
    [
        (64, 0.75, 50, 1146, 1, (16, 48)),
        (64, 0.0, 50, 0, 1, (50, 0)),
        (64, 0.0, 200, 0, 1, (64, 0)),
        # Fewer labels than their share: the pool fills up.
        (64, 0.25, 20, 1146, 1, (20, 44)),
        (64, 0.75, 50, 1146, 3, (15, 48)),
        (10, 0.75, 50, 1146, 2, (2, 8)),
    ],
)
def test_batch_sizes(
    batch: int, share: float, labelled: int, pool: int, processes: int, expected: tuple[int, int]
) -> None:
    found = batch_sizes(batch, share, num_labelled=labelled, num_pool=pool, num_processes=processes)
    assert found == expected


@pytest.mark.parametrize(("batch", "share", "pool"), [(3, 0.95, 100), (64, 0.75, 40), (1, 0.5, 100)])
def test_batches_that_cannot_be_are_refused(batch: int, share: float, pool: int) -> None:
    with pytest.raises(InputError, match=f"--batch-size {batch}: comes to"):
        batch_sizes(batch, share, num_labelled=20, num_pool=pool, num_processes=1)
