"""Read back wandb's offline files of a comparison."""

import csv
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import wandb
import yaml
from wandb.proto.wandb_internal_pb2 import Record

from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.tracking import wandb_run

BLOCK = 32768


@dataclass
class Told:
    """One run as wandb has it."""

    name: str = ""
    group: str = ""
    job_type: str = ""
    summary: dict[str, float] = field(default_factory=dict)
    files: dict[str, set[str]] = field(default_factory=dict)
    """By the type of the artifact."""
    history: list[dict[str, float]] = field(default_factory=list)
    """What was logged, in order, without wandb's own clocks."""
    config: dict[str, object] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)
    """The type of each artifact that it logged, by its name."""
    used: dict[str, str] = field(default_factory=dict)
    """The same of those that it was made of."""
    shown: dict[str, object] = field(default_factory=dict)
    """The kind of each picture and table."""
    status: int = -1
    """Of its end; -1: it has none."""


def records(path: Path) -> Iterator[Record]:
    """The messages in a file of wandb: LevelDB's log format after seven bytes of its own."""
    data, place, message = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        message += data[place + 7 : place + 7 + length]
        place += 7 + length
        # 1: a whole message; 2, 3, 4: its first part, one in the middle, its last.
        if kind in (1, 4):
            yield Record.FromString(message)
            message = b""


def told(path: Path) -> Told:
    found = Told()
    for record in records(path):
        if record.HasField("run"):
            found.name, found.group = record.run.display_name, record.run.run_group
            found.job_type, found.tags = record.run.job_type, list(record.run.tags)
            found.config = {
                one.key: json.loads(one.value_json) for one in record.run.config.update if one.key != "_wandb"
            }
        if record.HasField("history"):
            items = {"/".join(one.nested_key) or one.key: json.loads(one.value_json) for one in record.history.item}
            own = {name: value for name, value in items.items() if not name.startswith("_")}
            shown = {name.removesuffix("/_type"): value for name, value in own.items() if name.endswith("/_type")}
            shown |= {name: value["_type"] for name, value in own.items() if isinstance(value, dict)}
            found.shown |= shown
            if not shown:
                found.history.append(own)
        if record.HasField("exit"):
            found.status = record.exit.exit_code
        for update in record.summary.update:
            name = "/".join(update.nested_key) or update.key
            # Wandb's own clocks aside.
            if not name.startswith("_"):
                found.summary[name] = json.loads(update.value_json)
        artifact = record.artifact if record.HasField("artifact") else record.request.log_artifact.artifact
        if artifact.name:
            contents = {entry.path for entry in artifact.manifest.contents}
            found.files.setdefault(artifact.type, set()).update(contents)
            (found.used if artifact.use_after_commit else found.made)[artifact.name] = artifact.type
    return found


@pytest.fixture(autouse=True)
def own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def test_a_comparison_is_one_group(run: Callable, tmp_path: Path, tiny: dict) -> None:
    folder = tmp_path / "mine"
    answer = run(
        *("compare", *tiny["compare"], *tiny["convolutional"], "--output", folder, "--arms", "simclr"),
        *("--labels", 1, "--seeds", 0, 1, "--pretrain-seeds", 1, "--tracking.wandb", "offline"),
    )
    assert answer.status == 0, answer.err
    # Its own process writes the last of it when it ends.
    wandb.teardown()
    found = [told(path) for path in sorted(folder.rglob("*.wandb"))]
    assert {one.group for one in found} == {"mine"}
    assert sorted((one.job_type, one.name) for one in found) == [
        ("compare", "mine"),
        ("pretrain", "simclr resnet10t pretraining 0"),
        *(("transfer", f"{arm} resnet10t 1 a class seed {seed}") for arm in ("scratch", "simclr") for seed in (0, 1)),
    ]
    (whole,) = (one for one in found if one.job_type == "compare")
    assert {"report.html", "report.md", "results.csv", "summary.csv", "curves.csv"} <= whole.files["report"]
    with open(folder / "summary.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) > 10
    for line in lines:
        key = "/".join(line[column] for column in ("arm", "backbone", "labels", "phase", "metric"))
        assert whole.summary[f"{key}/mean"] == pytest.approx(float(line["mean"]), rel=1e-6)
        if line["baseline"]:
            difference = whole.summary[f"{key}/difference to {line['baseline']}"]
            assert difference == pytest.approx(float(line["difference"]), rel=1e-6)
    # A run's own numbers have the names of the phases and metrics in that table.
    accuracies = [
        one.summary["chosen/accuracy"] for one in found if one.job_type == "transfer" and "simclr" in one.name
    ]
    assert sum(accuracies) / 2 == pytest.approx(whole.summary["simclr/resnet10t/1/chosen/accuracy/mean"], rel=1e-6)
    (pretraining,) = (one for one in found if one.job_type == "pretrain")
    assert pretraining.summary["images_seen"] == 1024
    # All of it once more from the folders alone is the same.
    answer = run("sync", folder)
    assert answer.status == 0, answer.err
    assert answer.out.startswith(f"{folder}: 6 runs written for wandb, offline: nothing was sent.")
    assert f"`ssl-transfer sync {folder} --tracking.wandb online` sends" in answer.out
    wandb.teardown()
    paths = sorted(folder.rglob("*.wandb"))
    assert len(paths) == 12
    again = [told(path) for path in paths]
    for one in found:
        assert again.count(one) == 2, one.name
    # And without anything in which one sees an image.
    assert any("views" in one.shown for one in found)
    assert run("sync", folder, "--tracking.no-pictures").status == 0
    wandb.teardown()
    blind = [told(path) for path in folder.rglob("*.wandb") if path not in paths]
    assert [one.shown for one in blind] == [{}] * 6
    (whole,) = (one for one in blind if one.job_type == "compare")
    assert {"report.md", "results.csv", "label_efficiency.png"} <= whole.files["report"]
    assert "report.html" not in whole.files["report"]


def test_a_run_that_told_wandb_nothing_is_shown_later(run: Callable, pretrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    # A kill cut the last line off.
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"phase": "simclr", "st')
    assert run("sync", folder, "--tracking.wandb", "offline").status == 0
    wandb.teardown()
    (path,) = folder.rglob("*.wandb")
    (one, lines) = (told(path), read_lines(pretrained / "metrics.jsonl"))
    assert len(one.history) == len(lines) > 2
    for logged, line in zip(one.history, lines, strict=True):
        numbers = {name: value for name, value in line.items() if isinstance(value, (int, float))}
        place = f"{line['phase']}/{line['split']}/"
        assert {name.removeprefix(place): value for name, value in logged.items()} == numbers
    assert one.job_type == "pretrain"
    assert one.config == yaml.safe_load((folder / "config.yaml").read_text())
    result = json.loads((folder / "result.json").read_text())
    assert one.summary["images_seen"] == result["images_seen"]


def test_what_was_sent_and_what_was_not(
    run: Callable, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes the first run and is gone before the second: offline from there on, and said so."""
    for name in ("one", "two"):
        shutil.copytree(pretrained, tmp_path / "runs" / name)
    taken = []

    def begin(*, mode: str, **_: object) -> MagicMock:
        if mode == "online" and taken:
            raise OSError("no route")
        taken.append(mode)
        return MagicMock()

    monkeypatch.setattr(wandb, "init", begin)
    monkeypatch.setattr(wandb_run, "_down", [])
    answer = run("sync", "runs", "--tracking.wandb", "online")
    assert taken == ["online", "offline"]
    assert answer.status == 0, answer.err
    assert answer.out.startswith("runs: 1 run in wandb\nruns: 1 run written for wandb, offline: nothing was sent.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Which run?"),
        (("nowhere",), "is no folder"),
        ((".",), "holds no run"),
        ((".", "--tracking.wandb", "off"), "would show nothing"),
    ],
)
def test_what_cannot_be_shown(run: Callable, arguments: tuple[str, ...], message: str) -> None:
    answer = run("sync", *arguments)
    assert answer.status == 2
    assert message in answer.err


def test_a_run_of_an_older_version_is_called_by_its_folder(run: Callable, pretrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "older"
    shutil.copytree(pretrained, folder)
    (folder / "tracking.json").unlink()
    assert run("sync", folder).status == 0
    wandb.teardown()
    (path,) = folder.rglob("*.wandb")
    assert (told(path).name, told(path).group) == ("older", "")


def test_what_wandb_does_not_take_is_named(
    run: Callable, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)

    def refuse(**_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(wandb, "init", refuse)
    answer = run("sync", folder)
    assert answer.status == 1
    assert f"wandb has not all of {folder}" in answer.err
    assert "no space left" in answer.err


def test_a_run_shows_what_it_left_and_what_it_was_made_of(
    run: Callable, killed_in_step: Callable, pretrained: Path, tmp_path: Path, tiny: dict
) -> None:
    """Images -> pretraining -> transfer: what one run logs, the next names as its origin; a killed one goes on."""
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(pretrained, before)
    assert run("sync", before, "--tracking.wandb", "offline").status == 0
    flags = [*tiny["transfer"][2:], "--init", before, "--tracking.wandb", "offline"]
    killed_in_step(6, "transfer", *flags, output=after)
    answer = run("transfer", *flags, "--output", after)
    assert answer.status == 0, answer.err
    assert "warning: wandb" not in answer.err
    wandb.teardown()
    (first,) = (told(path) for path in before.rglob("*.wandb"))
    killed, second = sorted((told(path) for path in after.rglob("*.wandb")), key=lambda one: -one.status)
    assert (killed.status, second.status) == (1, 0)
    assert 0 < len(killed.history) < len(second.history)
    dataset = f"data-{json.loads((after / 'environment.json').read_text())['identity']['data']}"
    assert first.used == {dataset: "dataset"}
    ((backbone, kind),) = first.made.items()
    assert kind == "backbone"
    assert second.used == {dataset: "dataset", backbone: "backbone"}
    assert sorted(kind for name, kind in second.made.items() if not name.startswith("run-")) == ["backbone", "model"]
    assert first.shown == {"views": "image-file"}
    pictures = dict.fromkeys(("views", "confusion", "reliability", "curves"), "image-file")
    assert second.shown == {**pictures, "predictions": "table-file"}
    assert run("sync", after, "--tracking.no-pictures").status == 0
    wandb.teardown()
    (blind,) = (one for path in after.rglob("*.wandb") if (one := told(path)) not in (killed, second))
    assert blind.shown == {name: kind for name, kind in pictures.items() if name != "views"}
    assert {"pretrain", "simclr", "resnet10t", "digits"} <= set(first.tags)
    assert {"transfer", "init before", "labels 2"} <= set(second.tags)
    assert second.config["arm"] == "before"
    assert {"num_train", "validation/accuracy", "chosen/accuracy"} <= second.summary.keys()
    # Every number of the log, under its name.
    lines = read_lines(after / "metrics.jsonl")
    assert len(second.history) == len(lines) > 5
    for logged, line in zip(second.history, lines, strict=True):
        place = "/".join(line[key] for key in ("phase", "split"))
        numbers = {name: value for name, value in line.items() if isinstance(value, (int, float))}
        assert logged == {
            name if name in ("step", "epoch") else f"{place}/{name}": value for name, value in numbers.items()
        }
    assert {"head/train/learning_rate", "head/train/images_per_second"} <= {
        name for one in second.history for name in one
    }


def test_what_watches_a_pretraining_arrives(pretrained: Path, tmp_path: Path, run: Callable) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    with open(folder / "metrics.jsonl", "a") as file:
        alarm = {"phase": "simclr", "epoch": 2, "step": 8, "split": "alarm", "effective_rank": 1.1}
        file.write(json.dumps(alarm) + "\n")
    assert run("sync", folder, "--tracking.wandb", "offline").status == 0
    wandb.teardown()
    (path,) = folder.rglob("*.wandb")
    names = {name for one in told(path).history for name in one}
    assert {f"simclr/validation/{name}" for name in ("knn_accuracy", "effective_rank")} <= names
    assert {f"simclr/train/{name}" for name in ("loss", "learning_rate", "images_per_second")} <= names
    assert "simclr/alarm/effective_rank" in names
