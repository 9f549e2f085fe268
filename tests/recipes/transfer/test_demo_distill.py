"""`ssl-transfer demo distill` on tiny networks, and how `demo` finds it."""

import csv
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_transfer.engine import config as configuration
from ssl_transfer.stages.demos import compare, distill

FEW = (
    *("--image-size", 16, "--labels", 2, "--seeds", 0, 1, "--pretrain-seeds", 1, "--jobs", 1),
    *("--simclr.epochs", 1, "--simclr.batch-size", 256),
    *("--simclr.backbone.arguments", "stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False"),
    *("--student.arguments", "stem_type=", "stem_width=8", "channels=(8,8,8,8)", "zero_init_last=False"),
    *("--teacher.head-steps", 4, "--teacher.finetune-steps", 4),
    *(word for arm in ("alone", "on-labels", "on-pool") for word in (f"--{arm}.finetune-steps", 4)),
)


@pytest.mark.slow
@pytest.mark.figures
def test_it_leaves_a_table_a_picture_and_runs(run: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    answer = run("demo", "distill", *FEW, "--output", folder)
    assert answer.status == 0, answer.err
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert page in answer.out
    assert all(f"| {arm} |" in page for arm in distill.ARMS)
    assert (folder / "distillation.png").read_bytes().startswith(b"\x89PNG")
    with open(folder / "summary.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["arm"] for line in lines] == list(distill.ARMS)
    # Every arm's accuracies are those of its runs.
    places = ("student-alone", "taught-on-the-labels", "taught-on-the-pool", "teacher")
    means = []
    for place in places:
        results = [json.loads((folder / place / f"seed{seed}" / "result.json").read_text()) for seed in (0, 1)]
        means.append(sum(one["phases"][one["chosen"]]["test"]["accuracy"] for one in results) / 2)
    assert [float(line["mean"]) for line in lines] == pytest.approx(means)
    assert [float(line["difference"]) for line in lines[1:]] == pytest.approx([mean - means[0] for mean in means[1:]])
    assert int(lines[0]["num_parameters"]) < int(lines[-1]["num_parameters"])
    # All arms of a seed have the same labelled images, and one teacher.
    settings = [configuration.read_yaml(folder / place / "seed1" / "config.yaml") for place in places[1:3]]
    assert {one["teacher"] for one in settings} == {str(folder / "teacher" / "seed1")}
    assert [one["pool"] for one in settings] == ["false", "true"]
    # Started again, nothing is trained.
    before = (folder / "teacher" / "seed0" / "result.json").stat().st_mtime_ns
    assert run("demo", "distill", *FEW, "--output", folder).status == 0
    assert (folder / "teacher" / "seed0" / "result.json").stat().st_mtime_ns == before
    assert run("evaluate", folder / "taught-on-the-pool" / "seed0").status == 0
    # A run with an impossible number is refused, also one that others start from, and the printed remedy works.
    table = (folder / "results.csv").read_bytes()
    for place in ("student-alone", "teacher"):
        path = folder / place / "seed0" / "result.json"
        content = json.loads(path.read_text())
        content["phases"][content["chosen"]]["test"]["accuracy"] = float("nan")
        path.write_text(json.dumps(content))
        answer = run("demo", "distill", *FEW, "--output", folder)
        assert answer.status == 2
        assert f"{path}: " in answer.err
        assert "accuracy is nan, but must be a finite number" in answer.err
        assert (folder / "results.csv").read_bytes() == table
        (command,) = re.findall("`([^`]*)`", answer.err)
        subprocess.run(shlex.split(command), check=True)
        assert run("demo", "distill", *FEW, "--output", folder).status == 0
        table = (folder / "results.csv").read_bytes()


def test_alone_the_student_has_the_steps_views_and_rate_of_the_one_taught_on_the_labels() -> None:
    settings = configuration.read_yaml(distill.SETTINGS)
    alone, taught = dict(settings["alone"]), settings["on_labels"]
    # Label smoothing is its only source of soft targets.
    assert float(alone.pop("label_smoothing")) == 0.1
    assert alone == taught
    assert alone["finetune_steps"] == "600"


def test_demo_knows_its_names(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("ssl_transfer.stages.demos.distill.main", started.append)
    assert run("demo", "distill", "--jobs", 3).status == 0
    assert started == [["--jobs", "3"]]
    answer = run("demo", "distil")
    assert answer.status == 2
    assert "Did you mean distill" in answer.err
    assert set(compare.DEMOS) == {"adapt", "distill"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seeds", 0, 0), "each only once"),
        (("--seeds", 0, "--pretrain-seeds", 2), "--pretrain-seeds 2: more than"),
        (("--jobs", 0), "--jobs 0"),
    ],
)
def test_mistakes_are_named(flags: tuple, message: str, run: Callable) -> None:
    answer = run("demo", "distill", *flags)
    assert answer.status == 2
    assert message in answer.err
