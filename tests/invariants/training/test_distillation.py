"""Distillation: stopped or not, on one process or two, its teacher asked each time or once: the same run.

The teacher stays as it is, and the test images do not choose, as in transfer.
"""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ssl_transfer.data.sources import LoadingConfig, load
from ssl_transfer.engine.training.checkpointing import State
from ssl_transfer.objectives.distillation import Distillation, Teacher
from ssl_transfer.stages.distill import distill as stage
from ssl_transfer.stages.distill import teacher_batches
from ssl_transfer.stages.distill.config import DistillConfig

RECIPE = Path(__file__).parents[3] / "recipes" / "distill.py"
STOPPED = 130
SHORT = ("--labels", 3, "--epochs", 1, "--finetune-steps", 10)
POOL = ("--pool", "--pool-share", 0.9, "--batch-size", 300)
"""30 labelled images and 270 of the pool a step: four steps an epoch."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, run: Callable, flags: dict) -> Path:
    """A finished transfer run. Read only."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    few = ("--labels", 3, "--epochs", 1, "--head-steps", 30, "--finetune-steps", 20)
    assert run("transfer", "--image-size", 16, *few, *flags["convolutional"], "--output", folder) == 0
    return folder


@pytest.fixture
def command(teacher: Path, flags: dict) -> Callable[..., tuple]:
    """The command for a student, of flags."""

    def made(*settings: object, backbone: str = "convolutional") -> tuple:
        return ("distill", "--teacher", teacher, *flags[backbone], *SHORT, *settings)

    return made


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {part: (folder / part / f"{part}.safetensors").read_bytes() for part in ("backbone", "head")}


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        ("convolutional", (*POOL, "--distillation.hint", 1)),
        ("dropping transformer", (*POOL, "--fixed-views", 2, "--plan", "fine-tune", "--head-steps", 4)),
        pytest.param(*("convolutional", ("--batch-size", 8, "--distillation.similarity", 100)), marks=pytest.mark.slow),
    ],
    ids=["pool", "fixed views", "labels"],
)
def test_resumed_is_uninterrupted(
    backbone: str,
    settings: tuple,
    command: Callable,
    run: Callable,
    log_of: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    flags = command(*settings, backbone=backbone)
    assert run(*flags, "--output", whole) == 0

    # Distillation has no state beyond weights: the loop's steps are counted by its forwards.
    forwards, plain = 0, Distillation.forward

    def forward(self: Any, batch: Any) -> Any:
        nonlocal forwards
        forwards += 1
        if forwards == 7:
            raise KeyboardInterrupt
        return plain(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(State, "due", True)
        patched.setattr(Distillation, "forward", forward)
        assert run(*flags, "--output", stopped) == STOPPED
    assert not (stopped / "result.json").exists()
    assert any((stopped / "checkpoints").iterdir())
    assert run(*flags, "--output", stopped) == 0
    assert bytes_of(stopped) == bytes_of(whole)
    assert log_of(stopped) == log_of(whole)


LABELLED, WITH_POOL = ("--batch-size", 16), (*POOL, "--distillation.hint", 1)


@pytest.mark.parametrize(
    ("settings", "views"),
    [
        pytest.param(LABELLED, 0, id="labels-0"),
        pytest.param(LABELLED, 2, id="labels-2", marks=pytest.mark.slow),
        pytest.param(WITH_POOL, 0, id="pool-0", marks=pytest.mark.slow),
        pytest.param(WITH_POOL, 2, id="pool-2"),
    ],
)
def test_cached_outputs_equal_fresh_ones(
    views: int,
    settings: tuple,
    command: Callable,
    run: Callable,
    log_of: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    plain = Teacher.__call__

    def counted(self: Any, batch: Any, **known: Any) -> Any:
        asked.append(len(batch.images))
        return plain(self, batch, **known)

    monkeypatch.setattr(Teacher, "__call__", counted)
    flags = command(*settings, "--fixed-views", views)
    assert run(*flags, "--output", tmp_path / "once") == 0
    # Every view of every image, and the last batch filled up.
    images, size = (1146, 300) if "--pool" in settings else (30, 16)
    assert asked == [size] * (max(1, views) * -(-images // size))
    monkeypatch.setattr(teacher_batches, "cached_outputs", lambda *_, **__: "asked each time")
    asked.clear()
    assert run(*flags, "--output", tmp_path / "live") == 0
    assert len(asked) >= 10
    assert bytes_of(tmp_path / "once") == bytes_of(tmp_path / "live")
    assert log_of(tmp_path / "once") == log_of(tmp_path / "live")


def test_the_teacher_is_bitwise_what_it_was(
    command: Callable, run: Callable, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the whole command: the file, the modules, their mode; and its weights are in no checkpoint of the student."""
    before, held = bytes_of(teacher), []
    made = Teacher.__init__

    def noted(self: Any, *arguments: Any, **settings: Any) -> None:
        made(self, *arguments, **settings)
        held.append(self)

    monkeypatch.setattr(Teacher, "__init__", noted)
    assert run(*command(*POOL), "--output", tmp_path / "run") == 0
    assert bytes_of(teacher) == before
    (one,) = held
    weights = load_file(teacher / "backbone" / "backbone.safetensors")
    assert len(weights) > 20
    for name, value in one.classifier.backbone.model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert not any(module.training for module in one.classifier.backbone.modules())
    state = torch.load(tmp_path / "run" / "checkpoints" / "finetune.pt", weights_only=True)["objective"]
    assert all(name.startswith("student.") for name in state)
    assert len([name for name in state if name.startswith("student.backbone")]) == len(weights)


def test_test_images_choose_nothing(teacher: Path, runtime: Any, convolutional: Any, tmp_path: Path) -> None:
    digits = load("digits", image_size=16, config=LoadingConfig())
    order = torch.randperm(len(digits.splits["test"]), generator=torch.Generator().manual_seed(0))
    labels = digits.labels.clone()
    labels[digits.splits["test"]] = labels[digits.splits["test"][order]]
    exported, results = [], []
    for name, dataset in (("as it is", digits), ("permuted", replace(digits, labels=labels))):
        config = DistillConfig(
            teacher=str(teacher),
            student="resnet10t",
            backbone=convolutional,
            labels="3",
            pool=True,
            batch_size=300,
            plan=("fine-tune",),
            epochs=1,
            head_steps=4,
            finetune_steps=4,
            output=tmp_path / name,
        )
        results.append(stage.distill(config, runtime=runtime, dataset=dataset, quiet=True))
        exported.append(bytes_of(tmp_path / name))
    assert exported[0] == exported[1]
    assert results[0]["chosen"] == results[1]["chosen"]
    for phase in results[0]["phases"]:
        first, second = (result["phases"][phase] for result in results)
        assert first["validation"] == second["validation"]
        assert first["test"] != second["test"]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="processes on a CPU, beside no GPU")
def test_two_processes_do_what_one_does(
    command: Callable, run: Callable, two_processes: Callable, tmp_path: Path
) -> None:
    """Without BatchNorm, with plain steps, every term of the loss, labelled images and the pool."""
    flags = command(
        *(*POOL, "--distillation.hint", 1, "--distillation.similarity", 100, "--distillation.alpha", 0.5),
        *("--optimizer.name", "sgd", "--optimizer.learning-rate", 0.2, "--optimizer.warmup-steps", 2),
        backbone="transformer",
    )
    assert run(*flags, "--output", tmp_path / "one") == 0
    launcher, environment = two_processes(RECIPE, *flags[1:], "--output", tmp_path / "two")
    answer = subprocess.run(launcher, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    assert "2 processes on CPU" in answer.stdout
    distances = []
    for part in ("backbone", "head"):
        weights = [load_file(tmp_path / name / part / f"{part}.safetensors") for name in ("one", "two")]
        assert weights[0].keys() == weights[1].keys()
        for name, expected in weights[0].items():
            torch.testing.assert_close(weights[1][name], expected, rtol=1e-4, atol=1e-5)
            distances.append(name)
    assert len(distances) > 15
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert results[0]["phases"]["finetune"]["images_seen"] == results[1]["phases"]["finetune"]["images_seen"] == 3600
    assert results[0]["num_pool"] == 1146
    # Training moves much further than the tolerance: another rate ends elsewhere.
    assert run(*flags, "--optimizer.learning-rate", 0.19, "--output", tmp_path / "other") == 0
    weights = [load_file(tmp_path / name / "backbone" / "backbone.safetensors") for name in ("one", "other")]
    moved = [name for name, value in weights[0].items() if not torch.allclose(value, weights[1][name], 1e-4, 1e-5)]
    assert len(moved) > len(weights[0]) / 2
