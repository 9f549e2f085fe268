"""The grid on a real Slurm of one node, where it lies beside the project."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssl_transfer import CompareConfig
from ssl_transfer.engine import config as configuration
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.stages.compare.arms import resolve_arms
from ssl_transfer.stages.compare.grid import grid

SHARED = Path(__file__).parents[4] / "shared" / "slurm"
RECIPE = Path(__file__).parents[3] / "recipes" / "compare.py"
PATIENCE = 120.0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"no {SHARED}"),
]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of this machine alone. Its runs have one thread each, as those here."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    place = tmp_path / "cluster"
    # Its daemons keep inherited files open, so their output is a file: a pipe would never end.
    with open(tmp_path / "start.log", "wb") as log:
        subprocess.run(["bash", SHARED / "start", place], check=True, stdout=log, stderr=log, timeout=180)
    monkeypatch.setenv("SLURM_CONF", str(place / "slurm.conf"))
    yield
    # A run has its result a moment before its job ends, and a job without its controller would not end.
    deadline = time.monotonic() + PATIENCE
    while subprocess.run(["squeue", "--noheader"], capture_output=True, check=True).stdout.strip():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    subprocess.run(["bash", SHARED / "stop", place], check=True)


def results_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", encoding="utf-8", newline="") as file:
        return [line for line in csv.DictReader(file) if line["metric"] not in write_tables.MEASURED]


def test_killed_failed_and_finished(node: None, run: Callable, tmp_path: Path, tiny: dict) -> None:
    """Kill the waiting process, let one pretraining fail: no job is submitted twice, the end is as locally."""
    settings = (*tiny["compare"], *tiny["convolutional"], "--arms", "simclr", "autoencoder", "--labels", 1)
    settings += ("--seeds", 0, 1)
    flags = tuple(str(flag) for flag in settings)
    assert run("compare", *flags, "--output", tmp_path / "here").status == 0

    folder = tmp_path / "there"
    config = configuration.parse(CompareConfig, {}, flags, program="test", default=CompareConfig())
    jobs, _ = grid(config, resolve_arms(config), folder)
    (obstacle,) = (job.folder for job in jobs if job.folder.name.startswith("autoencoder"))
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("a file where a run's folder should be")
    command = ("compare", *flags, "--output", str(folder), "--launcher", "slurm", "--slurm.cpus", "1")

    with open(tmp_path / "killed.log", "wb") as log:
        waiting = subprocess.Popen([sys.executable, RECIPE, *command[1:]], env=dict(os.environ), stdout=log, stderr=log)
    deadline = time.monotonic() + PATIENCE
    while not list(folder.rglob("result.json")):
        assert waiting.poll() is None, (tmp_path / "killed.log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "killed.log").read_text()
        time.sleep(0.05)
    waiting.send_signal(signal.SIGKILL)
    waiting.wait()
    submitted = (folder / "slurm" / "submitted.json").read_text()
    assert not (folder / "results.csv").exists()

    answer = run(*command)
    assert answer.status == 1
    assert "Slurm: 0 runs to submit" in answer.out
    (failure,) = json.loads((folder / "comparison.json").read_text())["failures"]
    assert (failure["folder"], failure["held_back"]) == (str(obstacle), 2)
    assert "cannot be written" in "\n".join(failure["lines"])
    assert (folder / "slurm" / "submitted.json").read_text() == submitted
    assert {line["arm"] for line in results_of(folder)} == {"scratch", "simclr"}

    obstacle.unlink()
    answer = run(*command, "--retry")
    assert answer.status == 0, answer.err
    assert "Slurm: 3 runs to submit" in answer.out
    assert len(results_of(folder)) > 0
    assert results_of(folder) == results_of(tmp_path / "here")


def test_an_unknown_partition_is_refused(node: None, run: Callable, tmp_path: Path, tiny: dict) -> None:
    flags = (*tiny["compare"], *tiny["convolutional"], "--arms", "scratch", "--labels", 1, "--seeds", 0)
    cluster = ("--launcher", "slurm", "--slurm.partition", "absent")
    answer = run("compare", *flags, *cluster, "--output", tmp_path / "run")
    assert answer.status == 2
    assert "Slurm refused the runs" in answer.err
    assert "partition" in answer.err
