"""Run under faults of the machine: a second run, a full or read-only disk, a clock jump, a closed output.

Small disks are mounted where that is allowed. Elsewhere a limit on the size of files stands for a disk that is full,
and `/proc` for one that cannot be written to: the same calls fail.
"""

import itertools
import json
import os
import pwd
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adversary.disk import Disk, mount
from PIL import Image

from ssl_transfer.engine.io import state_files
from ssl_transfer.methods import METHODS
from ssl_transfer.models import pretrained

DISK = 8 * 2**20
"""Bytes of the small disk: several times what a run leaves."""
ENOUGH = 6000
"""Of which this many kibibytes are enough: four states, and the export."""
SHORT = ("--image-size", 16, "--epochs", 2, "--batch-size", 256, "--checkpoints.seconds", 0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, run: Callable, flags: dict) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert run("pretrain", "simclr", *SHORT, *flags["convolutional"], "--output", folder) == 0
    return folder


@pytest.fixture
def assert_as_undisturbed(undisturbed: Path, log_of: Callable) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        files = [one / "backbone" / "backbone.safetensors" for one in (undisturbed, folder)]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert log_of(folder) == log_of(undisturbed)

    return check


def assert_one_line(said: str, disk: Path) -> None:
    """Check for one line with the path, the reason and the remedy."""
    (line,) = said.splitlines()
    assert line.startswith(f"error: {disk}")
    assert "space left" in line or "too large" in line
    begun = "is whole" in line or "has no checkpoint yet" in line or "config.yaml" in line or "environment" in line
    # Before the run has begun, the folder itself is named.
    assert begun or line.startswith(f"error: {disk / 'run'}: ")
    assert "the same command again" in line


@pytest.mark.parametrize("room", [0, 4, 8, 12, 300, 1190, 1210, 2400, 2440, 3600, 3640, 4000, 4780, ENOUGH])
def test_a_disk_that_fills(
    room: int,
    run: Callable,
    flags: dict,
    assert_as_undisturbed: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Wherever it happens, in a setting, the log, a state, a picture or the export: one line, and nothing is lost."""
    command = ("pretrain", "simclr", *SHORT, *flags["convolutional"], "--output", tmp_path / "disk" / "run")
    with Disk(tmp_path / "disk", size=DISK) as disk:
        with disk.left(room * 1024):
            status = run(*command)
        said = capsys.readouterr().err
        assert status in (0, 1), said
        assert status == 0 or room < ENOUGH
        assert status == 1 or room > 4000
        if status:
            assert_one_line(said, tmp_path / "disk")
            for state in (tmp_path / "disk" / "run" / "checkpoints").glob("*.pt"):
                state_files.load_state(state)
        assert run(*command) == 0
        assert_as_undisturbed(tmp_path / "disk" / "run")
        assert not list((tmp_path / "disk").rglob("*.part"))


@pytest.mark.parametrize("room", [0, 4, 16, 60, 100])
def test_a_disk_that_fills_at_the_end(
    room: int,
    run: Callable,
    flags: dict,
    assert_as_undisturbed: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All is trained, and the export does not fit."""
    command = ("pretrain", "simclr", *SHORT, *flags["convolutional"], "--output", tmp_path / "disk" / "run")

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with Disk(tmp_path / "disk", size=DISK) as disk:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(pretrained, "save_weights", stop)
            assert run(*command) == 130
        capsys.readouterr()
        with disk.left(room * 1024):
            assert run(*command) == 1
        assert_one_line(capsys.readouterr().err, tmp_path / "disk")
        assert not (tmp_path / "disk" / "run" / "result.json").exists()
        assert run(*command) == 0
        assert_as_undisturbed(tmp_path / "disk" / "run")


@pytest.mark.parametrize("room", [0, 4, 100, 250, 262])
def test_no_room_for_pixels(
    room: int, run: Callable, flags: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk of the cache fills while images are decoded, and that of temporary files is full all the time."""
    draw(tmp_path / "images", ("left", "right"), side=60)
    data = ("--data", f"folder:{tmp_path / 'images'}", "--image-size", 64, "--epochs", 1, "--batch-size", 8)
    cache = ("--loading.cache", tmp_path / "disk" / "cache", "--loading.cache-gb", 1)
    command = ("pretrain", "simclr", *data, *cache, *flags["convolutional"], "--output", tmp_path / "run")
    with Disk(tmp_path / "disk", size=DISK) as disk, pytest.MonkeyPatch.context() as patched:
        patched.setattr(tempfile, "tempdir", str(tmp_path / "disk"))
        with disk.left(room * 1024):
            assert run(*command) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path / 'disk' / 'cache'}")
        assert "No space left on device. " in line or "File too large. " in line
        assert line.count("make room") == 1
        assert "--loading.cache on a larger disk" in line
        assert not list((tmp_path / "disk" / "cache").glob("*.partial"))
        assert run(*command) == 0


def test_no_home_folder(
    run: Callable, flags: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """HOME is not set, and the user id has no entry, as in some containers."""

    def missing(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", missing)
    draw(tmp_path / "images", ("left", "right"))
    check = ("data", "check", f"folder:{tmp_path / 'images'}", "--image-size", 16)
    for command in (check, ("data", "cache"), ("data", "cache", "--verify")):
        assert run(*command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: --loading.cache ~/.cache/ssl_transfer: there is no home folder")
        assert line.endswith("Set HOME, or give --loading.cache a path without ~.")
    assert run("data", "check", "folder:~/images") == 2
    assert "there is no home folder" in capsys.readouterr().err
    assert run(*check, "--loading.cache", tmp_path / "cache") == 0
    assert run("pretrain", "simclr", *SHORT, *flags["convolutional"], "--output", tmp_path / "run") == 0
    assert run("sync", "--help") == 0
    assert run("doctor", "--output", tmp_path / "run") == 1
    assert "there is no home folder" in capsys.readouterr().err
    assert not (tmp_path / "~").exists()


def test_an_output_that_cannot_be_written(
    run: Callable, flags: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    (tmp_path / "file").write_text("no folder")
    mounted = mount(place, "ro")
    try:
        for folder in (place / "run" if mounted else Path("/proc/run"), Path("/proc/run"), tmp_path / "file" / "run"):
            command = ("pretrain", "simclr", *SHORT, *flags["convolutional"], "--output", folder)
            assert run(*command) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"error: --output {folder}: cannot be written")
            assert "Give another folder" in line
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def test_two_runs_into_one_folder(flags: dict, undisturbed: Path, log_of: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ("pretrain", "simclr", *SHORT, *flags["convolutional"], "--output", folder)
    command = [sys.executable, "-m", "ssl_transfer", *(str(word) for word in words)]
    # The second is begun when the first has the folder, and while it trains.
    waiting = tmp_path / "go on"
    held = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib, time\n"
        "import ssl_transfer.engine.console.progress as progress\n"
        "plain = progress.bar\n"
        f"place = pathlib.Path({str(waiting)!r})\n"
        "def bar(*arguments, **settings):\n"
        "    while os.environ.get('HELD') and not place.exists():\n"
        "        time.sleep(0.05)\n"
        "    return plain(*arguments, **settings)\n"
        "progress.bar = bar\n"
    )
    first = subprocess.Popen(command, env={**held, "HELD": "1"}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "config.yaml").is_file() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    second = subprocess.run(command, env=held, capture_output=True, text=True, check=False, timeout=120)
    waiting.touch()
    assert second.returncode == 2, second.stderr
    assert f"error: {folder}: another process is writing this run" in second.stderr
    _, said = first.communicate(timeout=120)
    assert first.returncode == 0, said
    assert log_of(folder) == log_of(undisturbed)


@pytest.mark.parametrize("hours", [-1.0, 1.0])
def test_a_clock_that_jumps(
    hours: float,
    run: Callable,
    flags: dict,
    assert_as_undisturbed: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Back or forth by an hour at every look, and the times of files with it; also between two starts of a run."""
    jumps, now, steps = itertools.count(), time.time, 0
    monkeypatch.setattr(time, "time", lambda: now() + 3600.0 * hours * next(jumps))
    plain = METHODS["simclr"].module.after_step

    def after_step(self: object, progress: float) -> None:
        nonlocal steps
        steps += 1
        for file in (tmp_path / "run").rglob("*"):
            os.utime(file, (now() + 3600 * hours * steps,) * 2)
        if steps == 6:
            raise KeyboardInterrupt
        plain(self, progress)

    command = ("pretrain", "simclr", *SHORT, *flags["convolutional"], "--output", tmp_path / "run")
    monkeypatch.setattr(METHODS["simclr"].module, "after_step", after_step)
    assert run(*command) == 130
    assert run(*command) == 0
    assert_as_undisturbed(tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0.0 < result["seconds"] < 600.0
    speeds = [json.loads(line).get("images_per_second", 1) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert min(speeds) > 0


def draw(folder: Path, classes: tuple[str, ...], side: int = 16) -> None:
    """Ten images of noise in each class."""
    generator = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.mark.parametrize(
    ("command", "redirection"),
    [
        ("--help", "| true"),
        pytest.param("pretrain simclr --help", "| head -1", marks=pytest.mark.slow),
        pytest.param(
            *("data check folder:images --loading.cache cache --output check", "| true"), marks=pytest.mark.slow
        ),
        ("pretrain simclr --image-size 16 --epochs 1 --output run NETWORK", "| true"),
        ("pretrain simclr --image-size 16 --epochs 1 --output run NETWORK", ">&-"),
        ("data check folder:images --loading.cache cache --output check", ">&- 2>&-"),
    ],
)
def test_outputs_that_nobody_reads(command: str, redirection: str, flags: dict, tmp_path: Path) -> None:
    """`| head` ends a program quietly, as a shell would say it, and a closed output does not end it at all."""
    draw(tmp_path / "images", ("left", "right"))
    network = " ".join(f"'{word}'" for word in flags["convolutional"])
    line = (
        f"{sys.executable} -m ssl_transfer {command.replace('NETWORK', network)} {redirection}; exit ${{PIPESTATUS[0]}}"
    )
    answer = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, cwd=tmp_path, env=_environment(), timeout=120
    )
    assert answer.stderr == ""
    if redirection.startswith(">"):
        assert answer.returncode == 0
        assert list(tmp_path.glob("*/result.json")) or list(tmp_path.glob("*/check.html"))
    else:
        # What head has read may have been all.
        assert answer.returncode in ((141,) if redirection == "| true" else (0, 141))


def test_letters_that_the_terminal_lacks(tmp_path: Path) -> None:
    """Escape letters outside ASCII on the terminal; files keep them."""
    draw(tmp_path / "images", ("grün", "日本"))
    command = [sys.executable, "-m", "ssl_transfer", "data", "check", "folder:images", "--loading.cache", "cache"]
    environment = {**_environment(), "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    answer = subprocess.run(
        [*command, "--output", "check"], capture_output=True, check=False, cwd=tmp_path, env=environment, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    assert rb"gr\xfcn" in answer.stdout
    assert "日本" in (tmp_path / "check" / "check.html").read_text(encoding="utf-8")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
