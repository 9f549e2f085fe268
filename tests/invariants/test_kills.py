"""Killed at random moments and started again, every stage ends as one that nobody killed; `scripts/soak.py` goes on."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "soak.py"
KILLS = 20
"""At least, over all stages."""


@pytest.fixture(scope="module")
def module() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patched:
        # The processes that are killed import it by its name.
        patched.syspath_prepend(str(SCRIPT.parent))
        yield importlib.import_module("soak")


@pytest.fixture(scope="module")
def soak(module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return module.Soak(tmp_path_factory.mktemp("soak"), seed=0)


def test_every_stage_is_killed(module: ModuleType, tmp_path: Path) -> None:
    commands = {command[0] for command in module.cases(tmp_path).values()}
    assert commands == {"pretrain", "transfer", "adapt", "distill"}
    assert module.TWO in module.cases(tmp_path)


@pytest.mark.parametrize("case", ["pretrain", "transfer", "adapt", "distill", "two processes"])
def test_killed_and_started_again(case: str, soak: Any, module: ModuleType) -> None:
    wanted = 1 if case == module.TWO else 5
    before = soak.kills
    while soak.kills - before < wanted:
        assert soak.trial(case, kills=wanted - (soak.kills - before)) == []


def test_they_were_as_many_as_stated(soak: Any) -> None:
    assert soak.kills >= KILLS


def test_a_difference_is_found(module: ModuleType, soak: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the comparison would miss if it compared nothing: a run with another seed."""
    plain = module.cases

    def other(workshop: Path) -> dict[str, tuple[str, ...]]:
        return {name: (*command, "--seed", "1") for name, command in plain(workshop).items()}

    seconds, (events, expected) = next((key[1], value) for key, value in soak._whole.items() if key[0] == "transfer")
    assert {"backbone/backbone.safetensors", "metrics.jsonl", "result.json", "predicted.npy"} < expected.keys()
    assert events[0] > 30
    monkeypatch.setattr(module, "cases", other)
    monkeypatch.setattr(soak.random, "choice", lambda _: seconds)
    different = soak.trial("transfer", kills=0)
    assert {"backbone/backbone.safetensors", "metrics.jsonl", "result.json"} <= set(different)


@pytest.mark.slow
def test_the_script_goes_on_for_some_time() -> None:
    words = [sys.executable, str(SCRIPT), "--minutes", "0.01", "--seed", "3"]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert answer.returncode == 0, answer.stderr
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [line["case"] for line in lines[:-1]] == ["pretrain", "transfer", "adapt", "distill", "two processes"]
    assert (lines[-1]["trials"], lines[-1]["failed"]) == (5, 0)
