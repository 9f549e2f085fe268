"""The scripts as processes: recipes, accelerate's launcher, `--help`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_transfer.cli.main import COMMANDS

REPOSITORY = Path(__file__).parents[3]


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A Python process with these arguments, one thread, no launcher's variables."""
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    return subprocess.run(
        [sys.executable, *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )


def test_every_recipe_has_a_command() -> None:
    scripts = sorted(path.stem for path in (REPOSITORY / "recipes").glob("*.py"))
    assert scripts == ["adapt", "compare", "distill", "evaluate", "pretrain", "transfer"]
    assert set(scripts) < set(COMMANDS)


@pytest.mark.parametrize("name", ["adapt", "compare", "distill", "evaluate", "pretrain", "transfer"])
def test_recipe_calls_its_stage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr("ssl_transfer.cli.main.main", called.append)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--some", "flag"])
    source = (REPOSITORY / "recipes" / f"{name}.py").read_text(encoding="utf-8")
    exec(compile(source, name, "exec"), {"__name__": "__main__"})  # noqa: S102
    assert called == [[name, "--some", "flag"]]


@pytest.mark.slow
def test_pretrain_recipe(tmp_path: Path, tiny: dict) -> None:
    script = REPOSITORY / "recipes" / "pretrain.py"
    answer = process(script, "simclr", *tiny["pretrain"], *tiny["convolutional"], "--output", tmp_path / "run")
    assert answer.returncode == 0, answer.stderr
    assert "kNN accuracy" in answer.stdout
    assert (tmp_path / "run" / "result.json").is_file()


def test_accelerate_launches_a_recipe(tmp_path: Path, tiny: dict) -> None:
    script = REPOSITORY / "recipes" / "transfer.py"
    launcher = ("-m", "accelerate.commands.launch", "--cpu")
    answer = process(*launcher, script, *tiny["transfer"], *tiny["convolutional"], "--output", tmp_path / "run")
    assert answer.returncode == 0, answer.stderr
    assert "preferred by validation" in answer.stdout
    assert (tmp_path / "run" / "result.json").is_file()


def test_top_level_help_imports_no_torch() -> None:
    program = (
        "import sys\nfrom ssl_transfer.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    status = stop.code\n"
        "print(status, 'torch' in sys.modules, 'tyro' in sys.modules)"
    )
    answer = process("-c", program)
    assert answer.stdout.splitlines()[-1] == "0 False False", answer.stderr
    assert all(f"  {name} " in answer.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name: str, run: Callable) -> None:
    answer = run(name, "--help")
    assert answer.status == 0
    assert answer.out.startswith("usage: ssl-transfer")
    assert name in answer.out


@pytest.mark.parametrize("method", ["simclr", "moco", "mae", "autoencoder"])
def test_help_of_every_method(method: str, run: Callable) -> None:
    answer = run("pretrain", method, "--help")
    assert answer.status == 0
    assert "--method.augment.crop-scale" in answer.out
    assert "--backbone.name" in answer.out


def test_no_command_shows_the_usage(run: Callable) -> None:
    answer = run()
    assert answer.status == 2
    assert "usage: ssl-transfer COMMAND" in answer.out
