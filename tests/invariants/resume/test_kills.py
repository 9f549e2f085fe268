"""Kill each stage at random moments and resume it: it ends as an undisturbed one (more: `scripts/soak.py`)."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "soak.py"
KILLS = {"pretrain": 5, "transfer": 5, "adapt": 5, "distill": 5, "two processes": 1}
"""At least; the first two cases are part of the quick suite."""


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
    assert list(module.cases(tmp_path)) == list(KILLS)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in ("pretrain", "transfer") else pytest.mark.slow) for case in KILLS]
)
def test_killed_and_started_again(case: str, soak: Any, module: ModuleType) -> None:
    before = soak.kills
    while (missing := KILLS[case] - (soak.kills - before)) > 0:
        assert soak.trial(case, kills=missing) == []


def test_a_difference_is_found(module: ModuleType, soak: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Detect a run with another seed, so that the comparison is not empty."""
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
