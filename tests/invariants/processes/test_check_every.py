"""A check of every step and a check of every few lead to the same training, to the bit."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_transfer.engine.distributed.runtime import Runtime

WORKER = Path(__file__).parent / "checks_worker.py"
CASES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "first, middle and last step of an epoch": {"losses": {7, 9, 12}},
    "several in one window": {"losses": {2, 3, 5}},
    "every step of an epoch": {"losses": set(range(7, 13))},
    "an infinite gradient": {"gradients": {4, 11}},
    "an infinite gradient that clipping would hide": {"name": "clipped", "gradients": {4, 11}},
    "due states around bad steps": {"losses": {3, 10}, "due": {2, 3, 4, 9}},
    "a signal in a window": {"signal": 9},
    "a signal after a bad step": {"losses": {8}, "signal": 10},
    "a signal in a bad step": {"losses": {10}, "signal": 10},
    "the skip limit": {"losses": {3, 4, 5}, "skip_limit": 2},
    "the skip limit over windows": {"losses": {3, 8, 14}, "skip_limit": 2, "due": {9}},
    "no finite loss in the last epoch": {"losses": set(range(13, 19)), "skip_limit": 6},
    "a queue": {"name": "moco", "losses": {1, 4, 12}, "gradients": {9}, "due": {5}},
}


def module_of(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def worker() -> Any:
    return module_of(WORKER)


def differing(first: Any, second: Any, place: str = "") -> list[str]:
    """The places in nested containers at which the bits differ."""
    if isinstance(first, Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
        return [] if same else [place]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{place}: {first.keys() ^ second.keys()}"]
        return [one for key in first for one in differing(first[key], second[key], f"{place}/{key}")]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [f"{place}: {len(first)} and {len(second)}"]
        pairs = enumerate(zip(first, second, strict=True))
        return [one for number, pair in pairs for one in differing(*pair, f"{place}/{number}")]
    return [] if first == second else [f"{place}: {first} and {second}"]


@pytest.mark.parametrize("name", CASES)
def test_one_process(name: str, worker: Any, runtime: Runtime, tmp_path: Path) -> None:
    case = worker.Case(**CASES[name])
    single, few = (worker.outcome(case, every, tmp_path / str(every), runtime) for every in (1, 5))
    # A roll back may come between a signal and the step after which the training stops.
    assert len(single.pop("stops")) == len(few.pop("stops")) == (case.signal > 0)
    assert differing(single, few) == []
    skipped = [line["step"] for line in single["log"] if line["split"] == "skipped"]
    assert skipped == sorted(case.losses | case.gradients)[: case.skip_limit + 1]
    assert bool(single["error"]) == (len(skipped) > case.skip_limit or "no finite" in name)
    assert all(torch.isfinite(value).all() for value in single["weights"].values())


def test_a_window_takes_steps_unseen(worker: Any, runtime: Runtime, tmp_path: Path, monkeypatch: Any) -> None:
    """The test above can fail: between two checks nothing is read."""
    from ssl_transfer.engine.training import stepper

    checks, plain = [], stepper.agree
    monkeypatch.setattr(stepper, "agree", lambda *arguments, **named: checks.append(1) or plain(*arguments, **named))
    counts = []
    for every in (1, 5):
        checks.clear()
        worker.outcome(worker.Case(), every, tmp_path / str(every), runtime)
        counts.append(len(checks))
    # Steps 5 and 12 end a window of five, the monitor looks at 7 and 14, epochs end at 6, 12 and 18 and ask once more.
    assert counts == [18 + 3, len({5, 12, 7, 14, 6, 18}) + 3]


def test_two_processes(worker: Any, many_forked: Callable, tmp_path: Path) -> None:
    answer = many_forked(2, WORKER, tmp_path)
    assert answer.returncode == 0, answer.stderr
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    for number, case in enumerate(worker.SHARED):
        for rank in ranks:
            single, few = rank[number, 1], rank[number, 5]
            # Several processes find out about a signal at a check.
            assert bool(single.pop("stops")) == bool(few.pop("stops"))
            assert differing(single, few) == [], number
            skipped = [line["step"] for line in single["log"] if line["split"] == "skipped"]
            assert skipped == sorted(case.losses | case.gradients)[: case.skip_limit + 1]
        assert differing(ranks[0][number, 5]["weights"], ranks[1][number, 5]["weights"]) == []
