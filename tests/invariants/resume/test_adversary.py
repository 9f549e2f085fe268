"""Damage commands at random: each ends equal, or its remedy works. `scripts/soak.py --adversary` runs more rounds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "soak.py"


def rounds(*flags: object) -> list[dict]:
    words = [sys.executable, str(SCRIPT), "--adversary", *map(str, flags)]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=1500)
    found = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
    assert [one for one in found if one["ended"] == "FAILED"] == []
    assert answer.returncode == 0, answer.stderr
    return found


def test_ten_rounds() -> None:
    found = rounds("--rounds", 10, "--seed", 5, "--commands", "data check", "data cache")
    assert len(found) == 10
    assert {one["command"] for one in found} == {"data check", "data cache"}
    assert len({one["damage"] for one in found}) > 3
    assert any(one["remedies"] for one in found)


@pytest.mark.slow
def test_a_hundred_rounds_of_all_commands() -> None:
    found = rounds("--rounds", 100, "--seed", 6)
    assert len(found) == 100
    assert len({one["command"] for one in found}) > 12
