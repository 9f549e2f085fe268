"""Losses over the batch: two processes with half a batch each have the gradients of one process with all of it."""

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_transfer.engine import distributed
from ssl_transfer.methods import METHODS

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="processes on a CPU, beside no GPU")
HERE = Path(__file__).parent
OVER_BATCH = [name for name, entry in METHODS.items() if entry.module.loss_over_batch]
TOLERANCE = 1e-5
"""Of a method's largest gradient or buffer: float32's rounding in sums of another order."""


@pytest.fixture(scope="module")
def worker() -> Any:
    """gathered_worker.py as a module, for what one process has."""
    spec = importlib.util.spec_from_file_location("gathered_worker", HERE / "gathered_worker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, two_processes: Callable) -> list[dict[str, Any]]:
    """What each of two processes had when it ended."""
    folder = tmp_path_factory.mktemp("gathered")
    command, environment = two_processes(HERE / "gathered_worker.py", folder)
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest difference between two sets of tensors, as a share of the largest value in the first."""
    assert first.keys() == second.keys()
    scale = max(float(value.abs().max()) for value in first.values())
    return max(float((value - second[key]).abs().max()) for key, value in first.items()) / max(scale, 1e-9)


def farthest(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The same of buffers, if there are any, each by its own size: a queue's pointer is larger than its keys."""
    assert first.keys() == second.keys()
    return max((distance({key: value}, {key: second[key]}) for key, value in first.items()), default=0.0)


def test_the_methods_were_found(ranks: list) -> None:
    assert {"simclr", "moco", "barlow", "vicreg"} <= set(OVER_BATCH)
    for rank in ranks:
        assert set(rank) == {*OVER_BATCH, "gather"}


@pytest.mark.parametrize("name", OVER_BATCH)
def test_two_processes_have_the_gradients_of_one(name: str, ranks: list, worker: Any) -> None:
    objective = worker.method(name)
    one = worker.trained(objective, objective, 0, 1)
    two = [rank[name] for rank in ranks]
    assert float((two[0]["loss"] + two[1]["loss"]) / 2) == pytest.approx(float(one["loss"]), rel=1e-5)
    assert len(one["gradients"]) > 10
    assert all(bool(torch.isfinite(value).all()) for value in one["gradients"].values())
    for rank in two:
        assert distance(one["gradients"], rank["gradients"]) < TOLERANCE
        assert farthest(one["buffers"], rank["buffers"]) < TOLERANCE


@pytest.mark.parametrize("name", OVER_BATCH)
def test_halves_that_know_nothing_of_each_other_have_not(name: str, worker: Any) -> None:
    """The test above can fail: without gathering, gradients or queues and centres are others, by far."""
    objective = worker.method(name)
    one = worker.trained(objective, objective, 0, 1)
    halves = []
    for index in range(2):
        objective = worker.method(name)
        halves.append(worker.trained(objective, objective, index, 2))
    gradients = {key: (halves[0]["gradients"][key] + halves[1]["gradients"][key]) / 2 for key in one["gradients"]}
    apart = max(distance(one["gradients"], gradients), farthest(one["buffers"], halves[0]["buffers"]))
    assert apart > 1000 * TOLERANCE


def test_gather_with_gradient(ranks: list) -> None:
    """Rows in rank order; a row's gradient is the sum of what all processes' losses have for it."""
    first = torch.arange(6.0).view(3, 2)
    weights = torch.arange(12.0).view(6, 2) * (1 + 2)
    for rank, found in enumerate(held["gather"] for held in ranks):
        assert torch.equal(found["rows"], torch.cat([first, first + 10.0]))
        assert torch.equal(found["gradient"], weights.chunk(2)[rank])


def test_gather_of_one_process_is_the_identity() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    assert distributed.gather(rows) is rows
