"""1 x 8, 2 x 4 and 4 x 2 images per process: the same losses, weights and running statistics, whatever is trained."""

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_transfer.data.loaders.loader import Loader
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods import METHODS
from ssl_transfer.objectives import ADAPTATIONS

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="processes on a CPU, beside no GPU")
WORKER = Path(__file__).parents[1] / "trainings.py"
WORLDS = (2, pytest.param(4, marks=pytest.mark.slow))
TOLERANCE = 1e-9
"""As a share of a loss, and of a tensor's largest value. 2e-11 is the most that was seen; float64 rounds at 1e-16."""
Trained = dict[str, tuple[list[float], dict[str, Tensor]]]


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory, forked: Callable) -> Callable[[str, int], list[Any]]:
    """Return the final state of each process, `world` (its trainings) or `few`; each world runs once."""
    folder = tmp_path_factory.mktemp("worlds")

    @functools.cache
    def ended(count: int) -> None:
        answer = forked(WORKER, folder, count)
        assert answer.returncode == 0, answer.stderr

    @functools.cache
    def read(name: str, count: int) -> list[Any]:
        ended(count)
        return [torch.load(folder / f"{name}{count}-rank{rank}.pt", weights_only=True) for rank in range(count)]

    return read


@pytest.fixture(scope="module")
def one(trainings: Any, runtime: Runtime) -> Trained:
    """Return the final state of one process."""
    dataset = trainings.digits()
    return {f"{name}, {kind}": trainings.training(name, kind, dataset, runtime) for name, kind in trainings.COMPARED}


def distances(first: tuple, second: tuple) -> tuple[float, float]:
    """Measure the distance of two trainings: of their losses, and of their tensors."""
    (losses, state), (others, other_state) = first, second
    assert state.keys() == other_state.keys()
    of_losses = [abs(loss - other) / max(abs(loss), 1e-3) for loss, other in zip(losses, others, strict=True)]
    of_tensors = []
    for name, tensor in state.items():
        # The keys of a step join a queue in the order of the processes.
        pair = [one[name].double() for one in (state, other_state)]
        pair = [one[one[:, 0].argsort()] if name == "queue" else one for one in pair]
        of_tensors.append(float((pair[0] - pair[1]).abs().max() / tensor.double().abs().max().clamp_min(1e-2)))
    return max(of_losses), max(of_tensors)


@pytest.mark.parametrize("count", WORLDS)
def test_every_method_and_objective_is_compared_or_excepted(count: int, trainings: Any, of_ranks: Callable) -> None:
    compared = {name for name, _ in trainings.COMPARED}
    terms = {name for name, entry in ADAPTATIONS.items() if entry.term is not None}
    assert set(METHODS) | terms | {"supervised", "distillation"} == (
        {name.split()[0] for name in compared} | set(trainings.EXCEPTIONS)
    )
    assert trainings.EXCEPTIONS.keys() == {
        name for name, entry in METHODS.items() if not entry.module.normalised_together
    }
    assert len(compared) >= 19
    names = {f"{name}, {kind}" for name, kind in trainings.COMPARED}
    assert all(names <= held.keys() for held in of_ranks("world", count))


@pytest.mark.parametrize("count", WORLDS)
def test_many_processes_train_what_one_does(count: int, of_ranks: Callable, one: Trained, trainings: Any) -> None:
    for name, alone in one.items():
        assert len(alone[0]) == trainings.STEPS
        apart = distances(alone, of_ranks("world", count)[0][name])
        assert max(apart) < TOLERANCE, (name, apart)


@pytest.mark.parametrize("count", WORLDS)
def test_every_process_ends_with_the_same(count: int, of_ranks: Callable, one: Trained) -> None:
    """To the bit: weights, statistics, queues and centres."""
    for name in one:
        (losses, state), *others = (held[name] for held in of_ranks("world", count))
        for other_losses, other in others:
            assert other_losses == losses
            assert [key for key, value in state.items() if not torch.equal(value, other[key])] == [], name


def test_processes_that_exchange_gradients_alone_do_not(of_ranks: Callable, one: Trained, trainings: Any) -> None:
    """The tests above can fail."""
    for name, kind in trainings.ALONE:
        apart = distances(one[f"{name}, {kind}"], of_ranks("world", 2)[0][f"{name}, {kind}, alone"])
        assert min(apart) > 1e5 * TOLERANCE, (name, apart)


def test_training_moves_much_further_than_the_tolerance(one: Trained) -> None:
    """Losses and statistics are not those of one step that is taken again and again."""
    for name, (losses, _) in one.items():
        assert max(losses) - min(losses) > 1e4 * TOLERANCE * max(losses), name


@pytest.mark.parametrize("count", WORLDS)
def test_an_evaluation_counts_every_image_once(
    count: int, of_ranks: Callable, trainings: Any, runtime: Runtime
) -> None:
    """Each process measures all of them, so that nothing is filled up or left out where they cannot be shared out."""
    dataset = trainings.digits()
    alone = trainings.measured(dataset, runtime)
    assert tuple(alone) == trainings.FEW == (1, 2, 3, 5, 7)
    for few, expected in alone.items():
        assert expected["counted"] == dataset.splits["train"][:few].tolist()
        for rank in of_ranks("few", count):
            torch.testing.assert_close(rank[few]["features"], expected["features"])
            plain = [
                {name: value for name, value in row.items() if name != "features"} for row in (rank[few], expected)
            ]
            assert plain[0] == plain[1]
    assert "two classes or more" in alone[1]["probe"]
    assert alone[7]["probe"] > 0.1 < alone[7]["knn"]


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("few", [1, 2, 3, 5, 7])
def test_few_images_are_shared_out_evenly_or_refused(few: int, count: int, trainings: Any) -> None:
    """Of an uneven rest every process leaves out as many, which are others in every epoch."""
    dataset = trainings.digits()
    indices = dataset.splits["train"][:few]
    world = [
        SimpleNamespace(num_processes=count, process_index=rank, device=torch.device("cpu")) for rank in range(count)
    ]

    def loader(runtime: Any) -> Loader:
        size = max(1, few // count) * count
        return Loader(dataset, indices, batch_size=size, seed=0, runtime=runtime, labelled=True)

    if few < count:
        with pytest.raises(InputError, match=f"launch at most {few} process"):
            loader(world[0])
        return
    seen = set()
    for epoch in range(20):
        shares = [torch.cat(loader(runtime).positions(epoch)).tolist() for runtime in world]
        assert {len(share) for share in shares} == {few // count}
        drawn = [position for share in shares for position in share]
        assert len(set(drawn)) == len(drawn)
        seen |= set(drawn)
    assert seen == set(range(few))
