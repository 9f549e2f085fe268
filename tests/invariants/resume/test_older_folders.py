"""Folders of finished runs that older versions wrote, in `versions/VERSION/`: each is opened and used by this one."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_transfer.stages.common.run import Run

VERSIONS = Path(__file__).parent / "versions"
NAMES = sorted(path.name for path in VERSIONS.iterdir())
COMPARE = (
    *("compare", "--image-size", 16, "--backbone.name", "vit_tiny_patch16_224", "--backbone.stem", "small"),
    *("--backbone.arguments", "embed_dim=8", "depth=1", "num_heads=1", "--arms", "scratch", "pretrained/"),
    *("--labels", 2, 5, "--seeds", 0, 1, "--transfer.epochs", 1, "--transfer.head-steps", 3),
    *("--transfer.finetune-steps", 3, "--output", "comparison"),
)
"""Command that made each version's comparison."""


@pytest.fixture(params=NAMES)
def older(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a version's `pretrained`, `transferred` and `comparison`, as the current folder."""
    place = shutil.copytree(VERSIONS / request.param, tmp_path / request.param)
    monkeypatch.chdir(place)
    return place


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_there_is_a_version() -> None:
    assert NAMES == ["0.1"]


def test_a_run_of_an_older_version_is_read(older: Path) -> None:
    run = Run(older / "transferred")
    assert run.spec.label == "vit_tiny_patch16_224/embed_dim=8/depth=1/num_heads=1"
    assert run.classes == tuple("0123456789")
    assert run.data == "digits"
    assert (run.storage.layout.channels, run.storage.value_range, run.storage.note) == (1, (0.0, 255.0), "")
    assert run.temperature.value is not None
    assert run.seen is not None
    assert run.result is not None
    assert run.result["num_train"] == 50
    assert run.identity["init"] == Run(older / "pretrained").backbone_file.fingerprint


def test_a_model_of_an_older_version_predicts_as_it_did(older: Path, run: Callable) -> None:
    assert run("evaluate", "transferred", "--split", "test", "--output", "measured") == 0
    assert run("evaluate", "pretrained") == 0
    before = json.loads((older / "transferred" / "result.json").read_text())
    after = json.loads((older / "measured" / "evaluation.json").read_text())
    chosen = before["phases"][before["chosen"]]["test"]
    assert after["classifiers"]["head"]["accuracy"] == pytest.approx(chosen["accuracy"])
    recorded, again = (
        rows(older / folder / "evaluation" / "predictions.csv") for folder in ("transferred", "measured")
    )
    assert len(recorded) == len(again) == 450
    assert [row["predicted"] for row in recorded] == [row["predicted"] for row in again]


def test_transfer_goes_on_from_a_run_of_an_older_version(older: Path, run: Callable) -> None:
    short = ("--labels", 5, "--epochs", 1, "--head-steps", 3, "--finetune-steps", 3)
    assert run("transfer", "--init", "transferred", *short, "--output", "further") == 0
    assert set(Run(older / "transferred").seen.tolist()) <= set(Run(older / "further").seen.tolist())


def test_a_report_of_an_older_comparison_is_drawn_again(older: Path, run: Callable) -> None:
    before = {name: (older / "comparison" / name).read_text() for name in ("summary.csv", "report.md")}
    assert run("report", "comparison") == 0
    assert (older / "comparison" / "report.html").is_file()
    summaries = [before["summary.csv"], (older / "comparison" / "summary.csv").read_text()]
    old, new = (list(csv.DictReader(io.StringIO(text))) for text in summaries)
    assert len(old) > 10
    # Later versions add columns.
    assert [{name: line[name] for name in old[0]} for line in new] == old
    pages = [before["report.md"], (older / "comparison" / "report.md").read_text()]
    # The answer is worded otherwise; the tables hold the same numbers.
    tables = ["\n".join(line for line in page.splitlines() if line.startswith("|")) for page in pages]
    numbers = [re.findall(r"[-+]?\d+\.\d+", text) for text in tables]
    assert len(numbers[0]) > 50
    assert numbers[0] == numbers[1]


def test_an_older_comparison_has_nothing_left_to_run(
    older: Path, run: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (older / "comparison" / "results.csv").read_text()
    monkeypatch.setattr("ssl_transfer.stages.transfer.phases.train", None)
    assert run(*COMPARE) == 0, capsys.readouterr().err
    assert (older / "comparison" / "results.csv").read_text() == before
