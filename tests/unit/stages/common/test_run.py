"""A run's folder: each file is opened once, whatever is asked of it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import weight_files
from ssl_transfer.engine.io.atomic import DamagedError
from ssl_transfer.models import pretrained
from ssl_transfer.models.heads import HeadConfig, make_head
from ssl_transfer.stages.common.run import Run

IMAGES = {"channels": 3, "dtype": "uint8", "side": 18, "value_range": [0.0, 255.0]}


@pytest.fixture
def folder(make_backbone, tmp_path: Path) -> Path:
    """A transfer run with every file that `Run` reads."""
    backbone, path = make_backbone(), tmp_path / "run"
    provenance = {"init": {"init": "scratch"}, "data_fingerprint": "d"}
    seen = np.array([3, 1], dtype=np.uint64)
    pretrained.export(backbone, path / "backbone", provenance, images=IMAGES, seen=seen)
    description = {"classes": ["ant", "bee"], "head": {"kind": "linear"}}
    weight_files.save_weights(path / "head", "head", make_head(HeadConfig(), backbone, 2).state_dict(), description)
    (path / "config.yaml").write_text(yaml.safe_dump({"data": "folder:x", "loading": {"download": True}}))
    (path / "environment.json").write_text(json.dumps({"identity": {"data": "d", "init": "scratch"}}))
    (path / "result.json").write_text(json.dumps({"chosen": "head"}))
    (path / "evaluation").mkdir()
    metrics = {"metrics": {"validation": {"temperature": 1.5}}, "notes": ["few images"]}
    (path / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    return path


def ask_everything(run: Run) -> dict[str, Any]:
    backbone = run.load_backbone()
    return {
        "spec": run.spec == backbone.spec,
        "classes": run.load_classifier(backbone, ("bee", "ant")).order.tolist(),
        "head": run.head,
        "seen": run.seen.tolist() if run.seen is not None else None,
        "data": (run.data, run.loading.download),
        "storage": (run.storage.layout.side, run.storage.value_range),
        "temperature": (run.temperature.value, run.temperature.doubts),
        "identity": run.identity,
        "result": run.result,
        "adapted": run.is_adapted,
        "fingerprints": [len(run.backbone_file.fingerprint), len(run.head_file.fingerprint)],
    }


def test_every_part_is_what_was_written(folder: Path) -> None:
    assert ask_everything(Run(folder)) == {
        "spec": True,
        "classes": [1, 0],
        "head": HeadConfig(),
        "seen": [1, 3],
        "data": ("folder:x", True),
        "storage": (18, (0.0, 255.0)),
        "temperature": (1.5, ("few images",)),
        "identity": {"data": "d", "init": "scratch"},
        "result": {"chosen": "head"},
        "adapted": False,
        "fingerprints": [16, 16],
    }


def test_each_file_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()
    text, binary, hashed = Path.read_text, Path.read_bytes, weight_files.file_fingerprint

    def counted(plain: Any) -> Any:
        def call(path: Path, *arguments: Any, **settings: Any) -> Any:
            read[path.name] += 1
            return plain(path, *arguments, **settings)

        return call

    monkeypatch.setattr(Path, "read_text", counted(text))
    monkeypatch.setattr(Path, "read_bytes", counted(binary))
    monkeypatch.setattr(weight_files, "file_fingerprint", counted(hashed))
    run = Run(folder)
    for _ in range(3):
        ask_everything(run)
    assert read == dict.fromkeys(
        (
            *("backbone.json", "head.json", "config.yaml", "environment.json", "result.json", "metrics.json"),
            *("backbone.safetensors", "head.safetensors"),
        ),
        1,
    )


def test_an_export_stands_for_the_backbone_alone(folder: Path) -> None:
    run = Run(folder / "backbone")
    assert not run.has_head
    assert run.classes == ()
    assert run.temperature.value is None
    assert run.data == "folder:x"
    with pytest.raises(InputError, match=r"without a head, which knows no classes.*transfer --init"):
        run.load_classifier(run.load_backbone())


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "result.json", "evaluation/metrics.json"])
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    run = Run(folder)
    parts = {"config.yaml": "settings", "environment.json": "identity", "result.json": "result"}
    with pytest.raises((InputError, DamagedError), match=name):
        getattr(run, parts.get(name, "evaluation"))
