"""A process that ends before its time takes the others with it, and the launcher says which; the rerun goes on."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="processes on a CPU, beside no GPU")
WORKER = Path(__file__).parent / "dying_worker.py"
TRAINING = ("pretrain", "simsiam", "--image-size", 16, "--epochs", 4, "--batch-size", 258)
STEPS_PER_EPOCH, LAST = 4, 10
"""One process ends in the third epoch; two are saved."""


@pytest.fixture
def ended(many_processes: Callable, flags: dict, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return the launcher's answer, `ended("killed", 1, of=2)`; no process is left after a minute."""

    def call(how: str, rank: int, *, of: int) -> subprocess.CompletedProcess[str]:
        command, environment = many_processes(
            of, WORKER, how, rank, LAST, *TRAINING, *flags["convolutional"], "--output", tmp_path / "run"
        )
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        try:
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
        # A second is usual; the launcher gives the others half a minute.
        assert time.time() - (tmp_path / "ended").stat().st_mtime < 60
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return call


def left(folder: Path) -> list[psutil.Process]:
    """Processes that still train into a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(WORKER) in words and str(folder / "run") in words:
            found.append(process)
    return found


@pytest.mark.parametrize(
    ("rank", "of"), [(1, 2), pytest.param(0, 2, marks=pytest.mark.slow), pytest.param(2, 3, marks=pytest.mark.slow)]
)
def test_a_killed_process_takes_the_others_with_it(
    rank: int, of: int, ended: Callable, many_forked: Callable, flags: dict, tmp_path: Path
) -> None:
    answer = ended("killed", rank, of=of)
    assert answer.returncode != 0
    cause = answer.stderr.split("Root Cause")[1]
    assert f"rank      : {rank} (local_rank: {rank})" in cause
    assert "Signal 9 (SIGKILL)" in cause
    assert left(tmp_path) == []
    assert not (tmp_path / "run" / "result.json").exists()
    command = (*TRAINING, *flags["convolutional"], "--output", tmp_path / "run")
    again = many_forked(of, WORKER.with_name("commands_worker.py"), *command)
    assert again.returncode == 0, again.stderr
    assert f"going on after step {LAST - 1} of {4 * STEPS_PER_EPOCH}" in again.stdout
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(ended: Callable, tmp_path: Path) -> None:
    """The others wait for it in a collective, and are told."""
    answer = ended("raises", 1, of=2)
    assert answer.returncode != 0
    assert "the disk of this process alone: it is full." in answer.stderr
    cause = answer.stderr.split("Root Cause")[1]
    assert "rank      : 1 (local_rank: 1)" in cause
    assert "exitcode  : 2" in cause
    assert left(tmp_path) == []


@pytest.mark.slow
def test_a_process_that_leaves_ends_all(ended: Callable, tmp_path: Path) -> None:
    """The launcher takes its status 0 for success; the others find its connection closed."""
    answer = ended("leaves", 1, of=2)
    assert answer.returncode != 0
    assert "rank      : 0 (local_rank: 0)" in answer.stderr.split("Root Cause")[1]
    assert left(tmp_path) == []
