"""No credential reaches what a command writes or prints."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import wandb

from ssl_transfer.engine.errors import FailedRunsError, InputError
from ssl_transfer.engine.launch.jobs import Failure, record_failure
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig
from ssl_transfer.stages.pretrain import pretrain

SECRET = "0f1e2d3c" * 5
LOGIN = "https://me:pa55word@example.org/x"


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    for name in ("HOME", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


def holding(folder: Path) -> list[str]:
    """The files below a folder in which a credential stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if any(one in path.read_bytes() for one in (SECRET.encode(), b"pa55word"))]


def test_a_run_and_what_wandb_keeps_of_it(
    run: Callable, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ssl-transfer", "pretrain", "--token", SECRET, LOGIN])
    folder = tmp_path / "run"
    place = ("--output", folder, "--loading.downloads", f"downloads/{SECRET}")
    arguments = (*tiny["pretrain"], *tiny["convolutional"], *place)
    answer = run("pretrain", "simclr", *arguments, "--tracking.wandb", "offline")
    assert answer.status == 0, answer.err
    wandb.teardown()
    assert len(list(folder.rglob("*.wandb"))) == 1
    assert holding(folder) == []
    assert "--token '***'" in json.loads((folder / "environment.json").read_text())["command"]
    assert "downloads: downloads/***" in (folder / "config.yaml").read_text()
    assert SECRET not in answer.out + answer.err
    # What is hidden is the same setting in the next start.
    assert "finished before" in run("pretrain", "simclr", *arguments).out


def test_an_error_that_a_library_wrote(run: Callable) -> None:
    answer = run("pretrain", "simclr", "--data", f"hf:{LOGIN}")
    assert answer.status == 2
    assert "https://***@example.org/x" in answer.err
    assert "pa55word" not in answer.err


@pytest.mark.parametrize(("kind", "status"), [(InputError, 2), (FailedRunsError, 1)])
def test_whatever_ends_a_command(
    run: Callable, kind: type[Exception], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise kind(f"no access with {SECRET}")

    monkeypatch.setattr(pretrain, "main", fail)
    answer = run("pretrain", "simclr")
    assert (answer.status, answer.err) == (status, "error: no access with ***\n")


def test_what_is_said(runtime, capsys: pytest.CaptureFixture) -> None:
    runtime.say(f"a {SECRET}")
    runtime.warn(f"b {LOGIN}")
    assert capsys.readouterr() == ("a ***\n", "b https://***@example.org/x\n")


def test_metrics_and_failures(tmp_path: Path, runtime) -> None:
    settings = {"url": LOGIN}
    place = tmp_path / "metrics.jsonl"
    tracker = Tracker(place, TrackingConfig(), runtime, settings=settings, group=SECRET, job_type="", title=LOGIN)
    tracker.log({"step": 1, "note": f"of {SECRET}"})
    tracker.close()
    record_failure(tmp_path, Failure(lines=("Traceback", f"HTTPError: {LOGIN} with {SECRET}")))
    assert {path.name for path in tmp_path.iterdir()} >= {"metrics.jsonl", "tracking.json", "failure.json"}
    assert holding(tmp_path) == []


def test_reports(run: Callable, tiny: dict, tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    sizes = (*tiny["compare"], *tiny["convolutional"], "--labels", 1, "--seeds", 0)
    answer = run("compare", *sizes, "--output", folder, "--arms", "simclr")
    assert answer.status == 0, answer.err
    held = json.loads((folder / "comparison.json").read_text())
    # As an older version left it, without checksums.
    del held["checksums"]
    held["data"], held["warnings"] = f"images of {LOGIN}", [f"not fetched with {SECRET}"]
    (folder / "comparison.json").write_text(json.dumps(held))
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps({**environment, "command": f"ssl-transfer {SECRET}"}))
    assert run("report", folder).status == 0
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        assert "***" in text.replace("\\*", "*")
        assert SECRET not in text
        assert "pa55word" not in text


def test_a_data_check(run: Callable, tmp_path: Path, draw_images: Callable) -> None:
    images = draw_images(tmp_path / f"of-{SECRET}", disc=6, square=6)
    run("data", "check", f"folder:{images}", "--output", tmp_path / "check")
    assert holding(tmp_path / "check") == []
    assert (tmp_path / "check" / "check.html").is_file()
