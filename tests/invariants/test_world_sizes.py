"""1 x 8, 2 x 4 and 4 x 2 images per process: the same losses, weights and running statistics, whatever is trained."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_transfer.engine.runtime import Runtime
from ssl_transfer.methods import METHODS
from ssl_transfer.objectives import ADAPTATIONS

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="processes on a CPU, beside no GPU")
WORKER = Path(__file__).parent / "trainings.py"
WORLDS = (2, 4)
TOLERANCE = 1e-9
"""As a share of a loss, and of a tensor's largest value. 2e-11 is the most that was seen; float64 rounds at 1e-16."""
Trained = dict[str, tuple[list[float], dict[str, Tensor]]]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Trained]]:
    """What each process of each world had when it ended."""
    folder = tmp_path_factory.mktemp("worlds")
    command = [sys.executable, WORKER, folder, *map(str, WORLDS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    return {
        count: [torch.load(folder / f"world{count}-rank{rank}.pt", weights_only=True) for rank in range(count)]
        for count in WORLDS
    }


@pytest.fixture(scope="module")
def one(trainings: Any, runtime: Runtime) -> Trained:
    """What one process has."""
    dataset = trainings.digits()
    return {f"{name}, {kind}": trainings.training(name, kind, dataset, runtime) for name, kind in trainings.COMPARED}


def distances(first: tuple, second: tuple) -> tuple[float, float]:
    """How far two trainings are apart: their losses, and their tensors."""
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


def test_every_method_and_objective_is_compared_or_excepted(trainings: Any, worlds: dict) -> None:
    compared = {name for name, _ in trainings.COMPARED}
    terms = {name for name, entry in ADAPTATIONS.items() if entry.term is not None}
    assert set(METHODS) | terms | {"supervised", "distillation"} == (
        {name.split()[0] for name in compared} | set(trainings.EXCEPTIONS)
    )
    assert trainings.EXCEPTIONS.keys() == {
        name for name, entry in METHODS.items() if not entry.module.normalised_together
    }
    assert len(compared) == 19
    names = {f"{name}, {kind}" for name, kind in trainings.COMPARED}
    for count in WORLDS:
        assert all(names <= held.keys() for held in worlds[count])


@pytest.mark.parametrize("count", WORLDS)
def test_many_processes_train_what_one_does(count: int, worlds: dict, one: Trained, trainings: Any) -> None:
    for name, alone in one.items():
        assert len(alone[0]) == trainings.STEPS
        apart = distances(alone, worlds[count][0][name])
        assert max(apart) < TOLERANCE, (name, apart)


@pytest.mark.parametrize("count", WORLDS)
def test_every_process_ends_with_the_same(count: int, worlds: dict, one: Trained) -> None:
    """To the bit: weights, statistics, queues and centres."""
    for name in one:
        (losses, state), *others = (held[name] for held in worlds[count])
        for other_losses, other in others:
            assert other_losses == losses
            assert [key for key, value in state.items() if not torch.equal(value, other[key])] == [], name


def test_processes_that_exchange_gradients_alone_do_not(worlds: dict, one: Trained, trainings: Any) -> None:
    """The tests above can fail."""
    for name, kind in trainings.ALONE:
        apart = distances(one[f"{name}, {kind}"], worlds[2][0][f"{name}, {kind}, alone"])
        assert min(apart) > 1e5 * TOLERANCE, (name, apart)


def test_training_moves_much_further_than_the_tolerance(one: Trained) -> None:
    """Losses and statistics are not those of one step that is taken again and again."""
    for name, (losses, _) in one.items():
        assert max(losses) - min(losses) > 1e4 * TOLERANCE * max(losses), name
