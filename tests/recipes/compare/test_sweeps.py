"""Sweeps in wandb's format: every parameter is a flag, what wandb would call runs. The dashboard without a server."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import wandb
import yaml

from ssl_transfer.methods import METHODS

REPOSITORY = Path(__file__).parents[3]
SWEEPS = sorted((REPOSITORY / "recipes" / "configs").glob("sweep_*.yaml"))
FEW = {
    "pretrain": ("--epochs", 1, "--image-size", 16, "--data", "digits"),
    "transfer": ("--image-size", 16, "--head-steps", 4, "--finetune-steps", 4),
}


def ends(parameter: dict) -> tuple[object, object]:
    """The smallest and the largest value that a sweep would try."""
    values = parameter.get("values") or [parameter["min"], parameter["max"]]
    return values[0], values[-1]


def called(sweep: dict, values: dict[str, object], trial: str) -> list[str]:
    """The words that the program gets where wandb's agent starts it."""
    filled = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"],
        "${program}": [sweep["program"]],
        "${args}": [f"--{name}={value}" for name, value in values.items()],
    }
    command = [part for word in sweep["command"] for part in filled.get(word, [word])]
    environment = {**os.environ, "WANDB_RUN_ID": trial}
    program, *words = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    assert program == sweep["program"]
    return words


def test_there_are_two() -> None:
    assert [path.stem for path in SWEEPS] == ["sweep_pretrain", "sweep_transfer"]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("end", [0, 1], ids=["least", "most"])
def test_what_wandb_would_call_runs(
    path: Path, end: int, run: Callable, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    stage = Path(sweep["program"]).stem
    assert (REPOSITORY / sweep["program"]).is_file()
    words = called(sweep, {name: ends(one)[end] for name, one in sweep["parameters"].items()}, f"trial{end}")
    at = words.index("--config") + 1
    words[at] = str(REPOSITORY / words[at])
    start = ("--init", pretrained) if stage == "transfer" else ()
    logged: dict[str, float] = {}

    class Run:
        summary = logged

        def log(self, values: dict) -> None:
            logged.update(values)

        def log_artifact(self, *_: object, **__: object) -> None:
            pass

        use_artifact = finish = log_artifact

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    answer = run(stage, *words, *start, *FEW[stage])
    assert answer.status == 0, answer.err
    assert "warning" not in answer.err
    # What the sweep goes by is among what wandb is told.
    assert sweep["metric"]["name"] in logged
    # Trials that run at the same time, or one after the other, have a folder each.
    settings = (tmp_path / "runs" / path.stem / f"trial{end}" / "config.yaml").read_text(encoding="utf-8")
    for name, one in sweep["parameters"].items():
        held = yaml.safe_load(settings)
        for part in name.replace("-", "_").split("."):
            held = held[part]
        # What was asked for is what ran.
        assert held == pytest.approx(ends(one)[end]), name


@pytest.fixture(scope="module")
def dashboard() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wandb_dashboard", REPOSITORY / "scripts" / "wandb_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_dashboard(dashboard: ModuleType, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard.workspaces.Workspace, "save", lambda _: pytest.fail("it was sent"))
    dashboard.main(["mine/digits", "--dry-run"])
    made = json.loads(capsys.readouterr().out)
    assert (made["entity"], made["project"]) == ("mine", "digits")
    sections = {one["name"]: one["panels"] for one in made["spec"]["section"]["panelBankConfig"]["sections"]}
    assert {"Accuracy", "Pictures"} <= sections.keys()

    def places(metric: str) -> list[str]:
        shown = [(name, one["config"].get("metricRegex")) for name, panels in sections.items() for one in panels]
        return [name for name, regex in shown if regex is not None and re.search(regex, metric)]

    watched = (
        "train/loss",
        "train/learning_rate",
        "validation/knn_accuracy",
        "validation/effective_rank",
        "alarm/rank",
    )
    for metric in watched:
        assert [places(f"{method}/{metric}") for method in METHODS] == [["Pretraining"]] * len(METHODS)
    for phase in ("head", "finetune", "finetune-2"):
        for metric in ("train/loss", "train/learning_rate", "train/images_per_second", "validation/accuracy"):
            assert places(f"{phase}/{metric}") == ["Transfer"]
        for metric in ("train/domain_distance", "train/discriminator_accuracy", "train/sure", "validation/a_distance"):
            assert places(f"{phase}/{metric}") == ["Adaptation"]
        assert places(f"{phase}/train/agreement") == ["Distillation"]
    assert sections["Accuracy"][0]["config"]["xAxis"] == "summary:num_train"
    (runs,) = made["spec"]["section"]["runSets"]
    assert [one["name"] for one in runs["grouping"]] == ["arm.value"]


def test_the_dashboard_is_saved(dashboard: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    monkeypatch.setattr(dashboard.workspaces.Workspace, "save", lambda self: saved.append(self.project))
    monkeypatch.setattr(dashboard.workspaces.Workspace, "url", "https://example.org")
    dashboard.main(["mine/digits"])
    assert saved == ["digits"]


@pytest.mark.parametrize("place", ["digits", "/digits", "mine/", "a/b/c"])
def test_a_place_that_is_none(place: str, dashboard: ModuleType, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        dashboard.main([place])
    assert stop.value.code == 2
    assert "ENTITY/PROJECT" in capsys.readouterr().err
