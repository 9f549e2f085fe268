"""Signals that ask a run to leave: it saves its state, says how to go on, and goes on as if nothing had been."""

import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

PATIENCE = 120.0
RECIPES = Path(__file__).parents[3] / "recipes"
COMMAND = ("pretrain", "simclr", "--image-size", "16", "--batch-size", "64", "--epochs", "400")
SLOW = ("--checkpoints.seconds", "1000")
"""Nothing is saved but by the signal."""


def start(*command: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ssl_transfer", *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, Ctrl-C is ignored, and whatever they start inherits that.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lines_of(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def signalled(number: int, folder: Path, *command: object) -> tuple[int, str]:
    """The exit status and the error stream of a run that got a signal in the middle of its training."""
    process = start(*command, "--output", folder)
    wait_for(lambda: lines_of(folder) >= 2, process)
    process.send_signal(number)
    _, error = process.communicate(timeout=PATIENCE)
    return process.returncode, error


@pytest.mark.parametrize(
    "name", ["SIGINT", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGTERM", "SIGUSR1"))]
)
def test_a_signal_saves_and_says_how_to_go_on(name: str, flags: dict, tmp_path: Path) -> None:
    number = signal.Signals[name]
    folder = tmp_path / "run"
    command = (*COMMAND, *SLOW, *flags["convolutional"])
    status, error = signalled(number, folder, *command, "--fresh")
    assert status == 128 + number, error
    assert "Traceback" not in error
    found = re.search(r"simclr: asked to stop after step (\d+) of \d+; its state is saved\.", error)
    assert found is not None, error
    step = int(found[1])
    saved = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    assert saved["step"] == step >= 2
    assert f"stopped by {name}. To go on: ssl-transfer pretrain simclr --image-size 16" in error
    # Started over, the run would be lost.
    assert "--fresh" not in error.split("To go on:")[1]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["last.pt"]


@pytest.mark.slow
def test_stopped_by_signals_it_ends_as_if_it_had_not_been(
    run: Callable, flags: dict, log_of: Callable, tmp_path: Path
) -> None:
    command = ("pretrain", "simclr", "--image-size", 16, "--batch-size", 64, "--epochs", 12, "--evaluate-every", 2)
    command += (*flags["convolutional"],)
    assert run(*command, "--output", tmp_path / "whole") == 0
    stopped = tmp_path / "stopped"
    for lines in (1, 4):
        process = start(*command, *SLOW, "--output", stopped)
        wait_for(functools.partial(lambda lines: lines_of(stopped) >= lines, lines), process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 128 + signal.SIGTERM
    assert not (stopped / "result.json").exists()
    assert run(*command, "--output", stopped) == 0
    weights = [folder / "backbone" / "backbone.safetensors" for folder in (tmp_path / "whole", stopped)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert log_of(stopped) == log_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_comparison_with_workers_saves_before_it_leaves(run: Callable, flags: dict, tmp_path: Path) -> None:
    folder = tmp_path / "comparison"
    command = (
        *("compare", "--image-size", 16, "--epochs", 400, "--arms", "simclr", "simsiam", "--labels", 1),
        *("--seeds", 0, "--jobs", 2, *SLOW, *flags["transformer"]),
    )
    process = start(*command, "--output", folder)
    wait_for(lambda: sum(lines_of(path) >= 2 for path in folder.glob("pretrain/*")) == 2, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "Traceback" not in error
    states = sorted(folder.rglob("checkpoints/last.pt"))
    assert len(states) == 2, error
    assert all(torch.load(path, weights_only=True)["step"] >= 2 for path in states)
    assert list(folder.rglob("failure.json")) == []
    assert "To go on: ssl-transfer compare" in error


@pytest.mark.slow
def test_two_processes_stop_together(two_processes: Callable, flags: dict, tmp_path: Path) -> None:
    """The launcher hands a signal on to each of them; they stop after the same step, and one of them speaks."""
    folder = tmp_path / "run"
    arguments, environment = two_processes(
        RECIPES / "pretrain.py", *COMMAND[1:], *SLOW, *flags["transformer"], "--output", folder
    )
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: lines_of(folder) >= 2, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert error.count("its state is saved") == 1, error
    assert error.count("launch the same command again, without --fresh.") == 1
    assert torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["step"] >= 2
    assert not (folder / "result.json").exists()


@pytest.mark.slow
def test_a_stop_while_images_are_decoded(tmp_path: Path) -> None:
    """Before any training there is nothing to save, and nothing is left half done."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (images := tmp_path / "images" / "train" / name).mkdir(parents=True)
        for number in range(150):
            pixels = generator.integers(0, 256, (500, 500, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{number}.png", compress_level=1)
    cache = tmp_path / "cache"
    process = start(
        *("pretrain", "simclr", "--data", f"folder:{tmp_path / 'images'}", "--loading.cache", cache),
        *("--loading.workers", 1, "--image-size", 16, "--output", tmp_path / "run"),
    )
    wait_for(lambda: bool(list(cache.glob("*.partial/pixels.npy"))), process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "stopped by SIGTERM. To go on: ssl-transfer pretrain simclr" in error
    assert "Traceback" not in error
    assert [path for path in cache.iterdir() if path.suffix == ".partial"] == []
