"""What wandb is told of a comparison, read back from the files that it writes without a network."""

import csv
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

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
            found.job_type = record.run.job_type
        for update in record.summary.update:
            found.summary["/".join(update.nested_key) or update.key] = json.loads(update.value_json)
        artifact = record.artifact if record.HasField("artifact") else record.request.log_artifact.artifact
        if artifact.name:
            contents = {entry.path for entry in artifact.manifest.contents}
            found.files.setdefault(artifact.type, set()).update(contents)
    return found


def test_a_comparison_is_one_group(run: Callable, tmp_path: Path, tiny: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    folder = tmp_path / "mine"
    answer = run(
        *("compare", *tiny["compare"], *tiny["convolutional"], "--output", folder, "--arms", "simclr"),
        *("--labels", 1, "--seeds", 0, 1, "--tracking.wandb", "offline"),
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
