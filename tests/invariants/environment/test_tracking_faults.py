"""wandb that is down, slow, refuses or raises: the run ends well, and `metrics.jsonl` has every line."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb

sys.path.insert(0, str(Path(__file__).parents[1]))
from servers import server

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.atomic import DamagedError, write_text
from ssl_transfer.engine.io.json_files import line_of, read_lines
from ssl_transfer.engine.tracking import wandb_run
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig, drop_after, publish, send

KEY = "0123456789" * 4
PATIENCE = 2.0
RUN = """
import sys
from pathlib import Path
from ssl_transfer.engine.distributed import runtime
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig
config = TrackingConfig(wandb="online", patience=float(sys.argv[2]))
folder = Path(sys.argv[1])
folder.mkdir(parents=True)
tracker = Tracker(folder / "metrics.jsonl", config, runtime.start(), settings={"a": 1}, group="g", job_type="j")
for step in range(20):
    tracker.log({"phase": "p", "split": "train", "step": step, "loss": step / 3})
tracker.summarize({"loss": 1.0})
tracker.close()
print("done")
"""


@pytest.fixture(autouse=True)
def own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No login and no files but the test's own; what another test could not reach may be reached here."""
    for name in ("HOME", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(wandb_run, "_down", [])


def lines_of(folder: Path) -> list[dict]:
    return read_lines(folder / "metrics.jsonl")


@pytest.mark.parametrize(
    "kind", ["silent", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("refusing", "closed", "broken"))]
)
def test_a_server_that_does_not_serve(kind: str, tmp_path: Path) -> None:
    answer, seconds = run_against(kind, tmp_path / "run")
    assert (answer.returncode, answer.stdout) == (0, "done\n"), answer.stderr
    assert answer.stderr.count("warning: wandb cannot be used online") == 1
    assert f"ssl-transfer sync {tmp_path / 'run'}" in answer.stderr
    assert [line["loss"] for line in lines_of(tmp_path / "run")] == [step / 3 for step in range(20)]
    # Offline instead: `wandb sync` can send them.
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 1
    assert seconds < 40.0


def test_a_server_that_falls_silent(tmp_path: Path) -> None:
    answer, seconds = run_against("falling silent", tmp_path / "run")
    assert (answer.returncode, answer.stdout) == (0, "done\n"), answer.stderr
    assert answer.stderr.count("warning: wandb could not end (TimeoutError") == 1
    assert len(lines_of(tmp_path / "run")) == 20
    assert seconds < 40.0


def run_against(kind: str, folder: Path) -> tuple[subprocess.CompletedProcess, float]:
    """Run a process that logs there; return its output and its duration."""
    started = time.monotonic()
    with server(kind) as address:
        answer = subprocess.run(
            [sys.executable, "-c", RUN, str(folder), str(PATIENCE)],
            env={**os.environ, "WANDB_BASE_URL": address, "WANDB_API_KEY": KEY},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert KEY not in answer.stderr
    return answer, time.monotonic() - started


class Raising:
    """A run of wandb of which one call fails."""

    def __init__(self, call: str) -> None:
        self.call, self.calls = call, []

    def log(self, *_: object) -> None:
        self.did("log")

    @property
    def summary(self) -> "Raising":
        return self

    def update(self, *_: object) -> None:
        self.did("update")

    def log_artifact(self, *_: object) -> None:
        self.did("log_artifact")

    def finish(self, **_: object) -> None:
        self.did("finish")

    def did(self, call: str) -> None:
        self.calls.append(call)
        if call == self.call:
            raise ConnectionResetError("the quota is used up")


@pytest.mark.parametrize(("call", "before"), [("log", 1), ("update", 4), ("finish", 5)])
def test_whatever_raises_is_said_once(
    call: str, before: int, tmp_path: Path, runtime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    raising = Raising(call)
    monkeypatch.setattr(wandb, "init", lambda **_: raising)
    tracker = Tracker(
        *(tmp_path / "metrics.jsonl", TrackingConfig(wandb="offline"), runtime),
        settings={},
        group="",
        job_type="",
    )
    for step in range(3):
        tracker.log({"phase": "p", "split": "train", "step": step})
    tracker.summarize({"accuracy": 0.5})
    tracker.close()
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1
    assert "ConnectionResetError: the quota is used up" in said
    assert "ssl-transfer sync" in said
    # After the first failure nothing more is asked of it.
    assert len(raising.calls) == before
    assert len(lines_of(tmp_path)) == 3


def test_wandb_that_cannot_be_imported(tmp_path: Path, runtime, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = TrackingConfig(wandb="auto")
    tracker = Tracker(tmp_path / "metrics.jsonl", config, runtime, settings={}, group="", job_type="")
    tracker.log({"step": 0})
    tracker.close()
    assert "wandb could not begin (ModuleNotFoundError" in capsys.readouterr().err
    assert lines_of(tmp_path) == [{"step": 0}]
    assert not send(config, tmp_path, {})


def test_an_upload_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    raising = Raising("log_artifact")
    monkeypatch.setattr(wandb, "init", lambda **_: raising)
    (tmp_path / "report.md").write_text("text")
    config, files = TrackingConfig(wandb="offline"), [tmp_path / "report.md"]
    assert not publish(config, tmp_path, {}, job_type="compare", summary={"a": 1.0}, files=files)
    assert "wandb could not upload" in capsys.readouterr().err


def test_the_next_run_does_not_wait_again(tmp_path: Path, runtime, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    asked = []

    def begin(*, mode: str, **_: object) -> Raising:
        asked.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("no route")
        return Raising("")

    monkeypatch.setattr(wandb, "init", begin)
    for name in ("one", "two"):
        config, place = TrackingConfig(wandb="online"), tmp_path / name / "metrics.jsonl"
        Tracker(place, config, runtime, settings={}, group="", job_type="").close()
    assert asked == ["online", "offline", "offline"]
    assert capsys.readouterr().err.count("no route") == 1


def test_patience_is_above_nothing() -> None:
    with pytest.raises(InputError, match=r"--tracking.patience 0.0: more than 0 seconds"):
        TrackingConfig(patience=0.0)


def test_what_came_after_is_dropped_with_it(tmp_path: Path) -> None:
    """A phase that goes on from an older state: what later ones logged is written again too."""
    path = tmp_path / "metrics.jsonl"
    lines = [{"phase": "head", "step": 4}, *({"phase": "finetune", "step": step} for step in (1, 2, 3))]
    lines += [{"phase": "last", "step": 1}, {"phase": "chosen", "accuracy": 0.5}]
    write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))
    drop_after(path, "head", 4)
    assert lines_of(tmp_path) == lines
    drop_after(path, "finetune", 2)
    assert lines_of(tmp_path) == lines[:3]


def test_a_changed_line_is_left_out_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"phase": "head", "step": step, "loss": 0.25} for step in (1, 2, 3)]
    write_text(path, "".join(map(line_of, lines)))
    write_text(path, path.read_text().replace("0.25", "0.75", 1))
    with pytest.raises(DamagedError, match=r"line 1 is damaged .*--fresh"):
        read_lines(path)
    drop_after(path, "head", 3)
    assert f"warning: {path}: damaged in line 1;" in capsys.readouterr().out
    assert read_lines(path) == lines[1:]


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_text(path, '{"phase": "p", "step": 1, "loss": 0.1}\n{"phase": "p", "step": 2}\n{"phase": "p", "st')
    drop_after(path, "p", 1)
    assert path.read_text() == line_of({"phase": "p", "step": 1, "loss": 0.1})
