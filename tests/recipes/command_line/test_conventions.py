"""Follow the conventions of a command: version, exit statuses, fast help, a doctor."""

import contextlib
import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import ssl_transfer
from ssl_transfer.cli import doctor, help_cache
from ssl_transfer.data.sources import SOURCES
from ssl_transfer.engine.console import progress
from ssl_transfer.engine.io import ownership


@pytest.fixture(autouse=True)
def own_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(help_cache, "FOLDER", tmp_path / "pages")


def test_version(run: Callable) -> None:
    assert run("--version").out == f"ssl-transfer {ssl_transfer.__version__}\n"


def test_the_usage_names_the_exit_statuses(run: Callable) -> None:
    said = run("--help").out
    assert all(word in said for word in ("exit status: 0", " 1 ", " 2 ", "128 + N", "--dry-run"))


@pytest.mark.parametrize(
    ("command", "called"),
    [("predict", "RUN IMAGES..."), ("explain", "RUN..."), ("summary", "BACKBONE"), ("report", "COMPARISON")],
)
def test_help_calls_words_what_they_are(command: str, called: str, run: Callable) -> None:
    said = run(command, "--help").out
    assert re.search(rf"usage: .*\] {re.escape(called)}", said)
    assert "(default: )" not in said.partition("options")[0]


def test_help_names_every_source(run: Callable) -> None:
    said = " ".join(run("data", "check", "--help").out.split())
    assert all(source in said for source in SOURCES)


def test_help_is_kept(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("sync", "--help")
    assert first.status == 0
    monkeypatch.setattr("importlib.import_module", lambda *_: pytest.fail("it was built again"))
    assert run("sync", "--help") == first


def test_other_code_has_other_help(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    run("sync", "--help")
    (page,) = help_cache.FOLDER.glob("*.txt")
    page.write_text("of other code")
    assert run("sync", "--help").out == "of other code"
    monkeypatch.setattr(help_cache.metadata, "version", lambda _: "another tyro")
    assert run("sync", "--help").out.startswith("usage: ssl-transfer sync")


def test_pages_of_others_stay(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the largest number, those in the record are deleted; in a folder of others none is written."""
    monkeypatch.setattr(help_cache, "MOST", 1)
    folder = help_cache.FOLDER
    assert run("sync", "--help").status == 0
    (page,) = folder.glob("*.txt")
    (folder / f"{'a' * 32}.txt").write_text("mine")
    assert run("summary", "--help").status == 0
    assert not page.exists()
    assert len(list(folder.glob("*.txt"))) == 2
    assert (folder / f"{'a' * 32}.txt").read_text() == "mine"
    shutil.rmtree(folder / ownership.MARKER)
    before = sorted(folder.iterdir())
    assert run("doctor", "--help").status == 0
    assert sorted(folder.iterdir()) == before


def test_only_plain_help_is_kept(run: Callable) -> None:
    run("sync", "--tracking.wandb", "off", "--help")
    run("sync", "nowhere")
    assert not help_cache.FOLDER.exists()


def test_kept_help_imports_no_torch(tmp_path: Path) -> None:
    """Check that kept help imports no torch."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom ssl_transfer.cli import help_cache\n"
        f"help_cache.FOLDER = Path({str(tmp_path / 'pages')!r})\nfrom ssl_transfer.cli.main import main\n"
        "try:\n    main(['sync', '--help'])\nexcept SystemExit as stop:\n    status = stop.code\n"
        "print(status, 'tyro' in sys.modules)"
    )
    said = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120).stdout
        for _ in range(2)
    ]
    assert said[0].replace("0 True", "0 False") == said[1]
    assert said[1].endswith("0 False\n")


def test_a_sound_machine(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "t" * 30)
    answer = run("doctor", "--loading.cache", tmp_path / "cache")
    assert answer.status == 0, answer.err
    assert all(word in answer.out for word in ("torch", "CPU", "memory", "cache", "wandb", "Slurm"))
    assert len(re.findall("found", answer.out)) >= 2
    assert "kkkk" not in answer.out
    assert "tttt" not in answer.out
    assert not (tmp_path / "cache").exists()


def test_what_is_refused_without_an_extra(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("onnxscript", "captum", "submitit"):
            raise doctor.metadata.PackageNotFoundError(name)
        return "9000"

    monkeypatch.setattr(doctor.metadata, "version", version)
    answer = run("doctor", "--loading.cache", tmp_path)
    assert answer.status == 0, answer.err
    refused = answer.out.partition("Without an extra of this package these are refused:\n")[2]
    assert [line.strip() for line in refused.splitlines()] == [
        '--launcher slurm: pip install "ssl_transfer[slurm]"',
        'export --format onnx: pip install "ssl_transfer[export]"',
        'explain --what grad-cam: pip install "ssl_transfer[explain]"',
    ]


def test_the_doctor_knows_every_extra_that_is_for_users() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert doctor.EXTRAS.keys() == project["optional-dependencies"].keys() - {"docs", "dev"}


def test_a_machine_on_which_things_would_fail(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "timm":
            raise doctor.metadata.PackageNotFoundError(name)
        return "0.1" if name == "tyro" else "9000"

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("usage", (), {"free": 5_000})())
    answer = run("doctor", "--loading.cache", tmp_path)
    assert answer.status == 1
    assert "4 things would fail" in answer.err
    assert "timm is missing: pip install" in answer.err
    assert "tyro 0.1, where >=1.0 is needed" in answer.err
    assert answer.err.count("5.0 kB free") == 2


def test_a_folder_that_cannot_be(run: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    answer = run("doctor", "--loading.cache", tmp_path / "file" / "cache", "--output", tmp_path / ("x" * 300))
    assert answer.status == 1
    assert "--loading.cache" in answer.err
    assert "--output" in answer.err


def at_a_terminal(pages: Path, **variables: str) -> bytes:
    """Print `sync --help` at a terminal."""
    parent, child = pty.openpty()
    program = (
        "from pathlib import Path\nfrom ssl_transfer.cli import help_cache\n"
        f"help_cache.FOLDER = Path({str(pages)!r})\nfrom ssl_transfer.cli.main import main\nmain(['sync', '--help'])"
    )
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    variables = {**kept, "TERM": "xterm", **variables}
    with subprocess.Popen([sys.executable, "-c", program], stdout=child, env=variables) as process:
        os.close(child)
        said = b""
        with contextlib.suppress(OSError):
            while part := os.read(parent, 65536):
                said += part
    os.close(parent)
    assert process.returncode == 0
    return said


def test_colours_are_for_terminals_that_want_them(tmp_path: Path) -> None:
    # One page is kept for each.
    assert b"\x1b[" in at_a_terminal(tmp_path / "pages")
    assert b"\x1b[" not in at_a_terminal(tmp_path / "pages", NO_COLOR="1")


def test_colours_are_off_where_nobody_sees_them(run: Callable, tmp_path: Path) -> None:
    assert "\x1b[" not in run("doctor", "--loading.cache", tmp_path).out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("name", "value", "is_drawn"),
    [("TERM", "xterm", True), ("CI", "", True), ("CI", "false", True), ("CI", "true", False), ("TERM", "dumb", False)],
)
def test_progress_is_drawn_where_it_can_be(
    name: str, value: str, is_drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draw a bar at a terminal; print lines now and then in CI and in a file."""
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    with progress.bar("reading", 3) as one:
        one.update(2, "quickly")
    assert ("\x1b[" in terminal.getvalue()) == is_drawn
