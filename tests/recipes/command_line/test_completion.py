"""Complete lines in the shells themselves, as the Tab key does. bash is on every machine."""

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_transfer.cli import completion, help_cache, main
from ssl_transfer.cli.completion import Values


@pytest.fixture(autouse=True)
def own_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(help_cache, "FOLDER", tmp_path / "pages")


COMMANDS = {
    "": {},
    "data": {},
    "data check": {"--images": None},
    "explain": {
        "--what": Values(("maps", "grad-cam", "ideal"), several=True, closed=True),
        "--init": Values(("scratch", "imagenet")),
    },
    "pretrain": {},
    "pretrain simclr": {
        "--help": None,
        "--epochs": None,
        "--tracking.wandb": Values(("off", "auto"), closed=True),
        "--fresh": None,
        "--no-fresh": None,
    },
}


def completed(line: str, script: Path) -> list[str]:
    """Complete a line in bash, by the function that `complete` registered."""
    words = " ".join(f"'{word}'" for word in line.split(" "))
    program = (
        f"source {script}; complete -p ssl-transfer >/dev/null || exit 3; COMP_WORDS=({words}); "
        "COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _ssl_transfer; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    answer = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stderr == ""
    return answer.stdout.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ssl-transfer pre", ["pretrain"]),
        ("ssl-transfer data ", ["check"]),
        ("ssl-transfer data check --i", ["--images"]),
        ("ssl-transfer pretrain sim", ["simclr"]),
        ("ssl-transfer pretrain simclr --e", ["--epochs"]),
        ("ssl-transfer pretrain simclr --no", ["--no-fresh"]),
        ("ssl-transfer pretrain simclr --tracking.wandb ", ["off", "auto"]),
        ("ssl-transfer pretrain simclr --epochs 3 --fr", ["--fresh"]),
        ("ssl-transfer explain --what ", ["maps", "grad-cam", "ideal"]),
        ("ssl-transfer explain --what maps ", ["maps", "grad-cam", "ideal"]),
        ("ssl-transfer explain --what maps --i", ["--init"]),
        ("ssl-transfer explain --init scratch im", []),
    ],
)
def test_bash_completes(line: str, found: list[str], tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(completion.script("bash", COMMANDS))
    assert completed(line, script) == found


TYPED = {
    "pret": "pretrain",
    "data ch": "data check",
    "pretrain sim": "pretrain simclr",
    "pretrain simclr --ep": "pretrain simclr --epochs",
    "explain --what maps gr": "explain --what maps grad-cam",
    "explain --init im": "explain --init imagenet",
    "explain --init runs/m": "explain --init runs/mine",
    "data check flo": "data check flowers 1.png",
    "explain --what maps --init flo": "explain --what maps --init flowers 1.png",
}
"""Each line, and what Tab makes of it in a folder that holds `flowers 1.png` and `runs/mine/`."""
INTERACTIVE = {"bash": ("bash", "--norc", "-i"), "zsh": ("zsh", "-f", "-i")}


@pytest.mark.parametrize("shell", ["bash", *filter(shutil.which, ["zsh", "fish"])])
def test_what_tab_makes_of_a_line(shell: str, tmp_path: Path) -> None:
    (tmp_path / "flowers 1.png").touch()
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "script").write_text(completion.script(shell, COMMANDS))
    made = offered(tmp_path) if shell == "fish" else typed(INTERACTIVE[shell], tmp_path)
    assert [line.rstrip("/ ") for line in made] == list(TYPED.values())


def typed(command: tuple[str, ...], folder: Path) -> list[str]:
    """Type the lines at a terminal; a function in the command's place notes what it is called with."""
    keys = ['source ./script; ssl-transfer() { echo "$*" >> typed; }']
    keys += [f"ssl-transfer {line}\t" for line in TYPED]
    parent, child = pty.openpty()
    shown, variables = b"", {**os.environ, "TERM": "dumb", "HOME": str(folder), "ZDOTDIR": str(folder)}
    with subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, cwd=folder, env=variables, start_new_session=True
    ) as shell:
        os.close(child)
        os.write(parent, "\n".join([*keys, "exit", ""]).encode())
        until = time.monotonic() + 60
        # A terminal whose program has ended says so by an error.
        with contextlib.suppress(OSError):
            while select.select([parent], [], [], max(0.0, until - time.monotonic()))[0]:
                shown += os.read(parent, 65536)
        shell.kill()
    os.close(parent)
    assert b"modifier" not in shown
    return (folder / "typed").read_text().splitlines()


def offered(folder: Path) -> list[str]:
    """Complete the last word of each line in fish, which needs no terminal."""
    made = []
    for line in TYPED:
        program = f"source script; complete -C 'ssl-transfer {line}'"
        answer = subprocess.run(["fish", "-N", "-c", program], capture_output=True, text=True, cwd=folder, timeout=60)
        (found,) = answer.stdout.splitlines()
        made.append(f"{line.rpartition(' ')[0]} {found}".strip())
    return made


def test_every_shell_has_a_script() -> None:
    for shell in completion.SHELLS:
        text = completion.script(shell, COMMANDS)
        assert all(word in text for word in ("pretrain", "simclr", "epochs")), shell


def test_the_real_completion_has_every_command(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {name: main.COMMANDS[name] for name in ("data", "transfer", "report")}
    monkeypatch.setattr(main, "COMMANDS", chosen)
    answer = run("--print-completion", "bash")
    assert answer.status == 0, answer.err
    script = tmp_path / "completion.bash"
    script.write_text(answer.out)
    assert completed("ssl-transfer data ", script)[:3] == ["cache", "check", "preview"]
    assert completed("ssl-transfer transfer --optimizer.learn", script) == ["--optimizer.learning-rate"]
    assert completed("ssl-transfer transfer --tracking.wandb of", script) == ["off", "offline"]
    assert completed("ssl-transfer transfer --dry", script) == ["--dry-run"]
    assert completed("ssl-transfer transfer --init ", script) == ["scratch", "imagenet"]
    assert completed("ssl-transfer transfer --augmentation te", script) == ["texture"]
    flags = re.findall(r"^\W*(--[a-z][\w.-]*)", run("transfer", "--help").out.partition("options")[2], re.MULTILINE)
    assert len(flags) > 80
    assert set(flags) <= set(completed("ssl-transfer transfer --", script))


@pytest.mark.parametrize("shell", ["", "bsh"])
def test_a_shell_that_there_is_not(shell: str, run: Callable) -> None:
    answer = run("--print-completion", shell)
    assert answer.status == 2
    assert "bash, zsh, fish, tcsh" in answer.err
