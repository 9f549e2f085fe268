"""A comparison that is killed and started again: what was finished stays, and the results are an unkilled one's."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ssl_transfer.evaluation.comparison import write_tables

RECIPE = Path(__file__).parents[3] / "recipes" / "compare.py"
PATIENCE = 120.0


def results_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        return [line for line in csv.DictReader(file) if line["metric"] not in write_tables.MEASURED]


def finished(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process as the kernel would, and expect those that it started to end by themselves."""
    others = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    _, alive = psutil.wait_procs(others, timeout=10)
    # A process without a waiting parent is a zombie: it has ended.
    orphans = [other for other in alive if other.is_running() and other.status() != psutil.STATUS_ZOMBIE]
    for orphan in orphans:
        orphan.kill()
    assert orphans == []


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2], ids=["one job", "two jobs"])
def test_killed_and_started_again(jobs: int, run: Callable, flags: dict, log_of: Callable, tmp_path: Path) -> None:
    command = (
        *("--image-size", "16", "--epochs", "1", "--arms", "simclr", "--labels", "1", "2", "--seeds", "0", "1", "2"),
        *("--transfer.epochs", "1", "--transfer.head-steps", "12", "--transfer.finetune-steps", "12"),
        *flags["convolutional"],
    )
    folder = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(RECIPE), *command, "--jobs", str(jobs), "--output", str(folder)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE
    # One pretraining and twelve transfer runs; four of them suffice to be in the middle.
    while len(finished(folder)) < 4:
        assert process.poll() is None, "the comparison ended before it was killed"
        if time.monotonic() > deadline:
            kill(process)
            pytest.fail(f"the comparison finished {len(finished(folder))} runs in {PATIENCE} s")
        time.sleep(0.005)
    kill(process)
    before = finished(folder)
    assert 4 <= len(before) < 13
    assert not (folder / "results.csv").exists()
    assert list(folder.rglob("checkpoints/*.pt")) != []

    assert run("compare", *command, "--output", folder) == 0
    after = finished(folder)
    assert len(after) == 13
    assert before.items() < after.items()

    whole = tmp_path / "whole"
    assert run("compare", *command, "--output", whole) == 0
    assert len(results_of(whole)) > 100
    assert results_of(folder) == results_of(whole)
    runs = sorted(path.parent.relative_to(whole) for path in whole.rglob("result.json"))
    assert len(runs) == 13
    for place in runs:
        assert log_of(folder / place) == log_of(whole / place), place
    assert list(folder.rglob("*.part")) == []
