"""Commands in this process and in others, on backbones so small that a training takes a second."""

import functools
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssl_transfer.cli.main import main
from ssl_transfer.engine.io.json_files import read_lines

FLAGS: dict[str, tuple[str, ...]] = {
    "convolutional": (
        *("--backbone.name", "resnet10t", "--backbone.stem", "standard"),
        *("--backbone.arguments", "stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False"),
    ),
    "transformer": (
        *("--backbone.name", "vit_tiny_patch16_224", "--backbone.stem", "small"),
        *("--backbone.arguments", "embed_dim=16", "depth=2", "num_heads=2"),
    ),
    # Blocks are dropped at random in training: a training that is resumed must drop the same ones.
    "dropping transformer": (
        *("--backbone.name", "vit_tiny_patch16_224", "--backbone.stem", "small"),
        *("--backbone.arguments", "embed_dim=16", "depth=2", "num_heads=2", "drop_path_rate=0.3", "proj_drop_rate=0.1"),
    ),
}
FORKED = Path(__file__).with_name("forked.py")
FORKED_SECONDS = 500
"""No script takes so long."""
CLOCKS = {"images_per_second"}
"""Metrics in the log that depend on the machine's speed."""


@pytest.fixture(scope="session")
def flags() -> dict[str, tuple[str, ...]]:
    """Flags for tiny backbones."""
    return FLAGS


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture(scope="session")
def run() -> Callable[..., int]:
    """`run("pretrain", ...)` runs the command in this process and returns its exit status."""

    def run_command(*arguments: object) -> int:
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run_command


@pytest.fixture(scope="session")
def log_of() -> Callable[[Path], list[dict[str, Any]]]:
    """The lines of a run's log without what a clock measured."""

    def read(folder: Path) -> list[dict[str, Any]]:
        lines = read_lines(folder / "metrics.jsonl")
        return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]

    return read


@pytest.fixture(scope="session")
def many_processes() -> Callable[..., tuple[list[str], dict[str, str]]]:
    """Command and environment of CPU processes that run a script: `many_processes(4, script, flags...)`."""

    def command(count: int, script: Path, *arguments: object, joined: bool = True) -> tuple[list[str], dict[str, str]]:
        inherited = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
        environment = {**inherited, "OMP_NUM_THREADS": "1", **({"ACCELERATE_USE_CPU": "true"} if joined else {})}
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        return [*launcher, str(script), *(str(argument) for argument in arguments)], environment

    return command


@pytest.fixture(scope="session")
def two_processes(many_processes: Callable) -> Callable[..., tuple[list[str], dict[str, str]]]:
    """The same of two processes: `two_processes(script, flags...)`."""
    return functools.partial(many_processes, 2)


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`forked(script, arguments...)`: what a process gave that ran the script, its libraries imported already."""
    place = tmp_path_factory.mktemp("forked")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen([sys.executable, str(FORKED)], env=environment, text=True, **pipes)
    assert server.stdin is not None
    assert server.stdout is not None

    def call(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        words = [str(script), *map(str, arguments)]
        files = {name: str(place / name) for name in ("out", "err")}
        for file in files.values():
            Path(file).write_bytes(b"")
        own = {"environment": {**os.environ, "OMP_NUM_THREADS": "1"}, "folder": os.getcwd()}
        server.stdin.write(json.dumps({"words": words, **files, **own}) + "\n")
        server.stdin.flush()
        process = int(server.stdout.readline())
        if not select.select([server.stdout], [], [], FORKED_SECONDS)[0]:
            os.killpg(process, signal.SIGKILL)
        status = int(server.stdout.readline())
        out, err = (Path(file).read_text(encoding="utf-8") for file in files.values())
        return subprocess.CompletedProcess(words, status, out, err)

    with server:
        yield call
        server.stdin.close()


@pytest.fixture(scope="session")
def many_forked(forked: Callable) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a worker's `main` in several processes and return their results: `many_forked(2, script, flags...)`."""

    def call(count: int, script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        answer: subprocess.CompletedProcess[str] = forked(FORKED, script, count, *arguments)
        return answer

    return call


@pytest.fixture(scope="session")
def trainings() -> Any:
    """trainings.py as a module, for what one process has."""
    spec = importlib.util.spec_from_file_location("trainings", Path(__file__).parent / "trainings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
