"""Pretrain, transfer, evaluate: the run folder that each leaves, and that one goes on from the other."""

import contextlib
import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from ssl_transfer import load_backbone
from ssl_transfer.cli.main import main
from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.methods import METHODS

EPOCHS = {"simclr": 2}
"""Of the methods that train for more than one; all train by the same loop."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run, which is read only, and what its command printed."""

    folder: Path
    out: str


def finish(folder: Path, *command: object) -> Finished:
    """Run a command that leaves a run in a folder."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main([*map(str, command), "--output", str(folder)])
    return Finished(folder=folder, out=printed.getvalue())


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory: pytest.TempPathFactory, tiny: dict) -> Callable[[str], Finished]:
    """`pretraining("moco")`: a run of the method with some settings that are not its own, made once."""

    @functools.cache
    def make(method: str) -> Finished:
        kind = "transformer" if METHODS[method].backbones == "vit" else "convolutional"
        flags = (*tiny["pretrain"], *tiny[kind], "--seed", 3, "--optimizer.learning-rate", "2e-3")
        flags += ("--epochs", EPOCHS.get(method, 1), *tiny.get(method, ()))
        return finish(tmp_path_factory.mktemp(method) / "run", "pretrain", method, *flags)

    return make


@pytest.fixture(scope="module")
def transferred(tmp_path_factory: pytest.TempPathFactory, tiny: dict, pretrained: Path) -> Finished:
    """A transfer run from `pretrained`."""
    folder = tmp_path_factory.mktemp("transferred") / "run"
    return finish(folder, "transfer", "--init", pretrained, *tiny["transfer"])


@pytest.mark.parametrize("method", METHODS)
def test_pretrain_leaves_a_complete_run(method: str, pretraining: Callable) -> None:
    finished, epochs = pretraining(method), EPOCHS.get(method, 1)
    folder = finished.folder
    assert f"{4 * epochs} steps" in finished.out
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        *("config.yaml", "environment.json", "metrics.jsonl", "tracking.json", "checkpoints"),
        *("backbone", "result.json", "seal.json", "views.png"),
        *(("reconstructions.png",) if METHODS[method].reconstruct is not None else ()),
    }
    assert {path.name for path in (folder / "backbone").iterdir()} == {
        *("backbone.safetensors", "backbone.json", "seen.npy"),
    }
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.pt", "last.pt"]

    result = json.loads((folder / "result.json").read_text())
    assert (result["steps"], result["images_seen"]) == (4 * epochs, 4 * epochs * 256)
    assert 0.0 <= result["knn_accuracy"] <= 1.0
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    lines = read_lines(folder / "metrics.jsonl")
    assert [(line["split"], line["step"]) for line in lines] == [
        *(("train", 4 * epoch) for epoch in range(1, epochs + 1)),
        ("validation", 4 * epochs),
    ]
    # The result holds what was measured last.
    measured = {"knn_accuracy", "effective_rank", "feature_deviation", "alignment", "uniformity"}
    assert {name: lines[-1][name] for name in measured} == {name: result[name] for name in measured}
    assert result["collapsed"] == {}
    description = json.loads((folder / "backbone" / "backbone.json").read_text())
    assert description["provenance"]["method"] == method
    assert description["backbone"]["image_size"] == 16

    backbone = load_backbone(folder)
    assert not backbone.training
    features = backbone(torch.rand(3, 1, 16, 16))
    assert features.shape == (3, backbone.num_features)
    assert bool(features.isfinite().all())


def test_finished_run_is_not_done_again(run: Callable, pretrained: Path, tiny: dict) -> None:
    before = (pretrained / "result.json").stat().st_mtime_ns
    answer = run("pretrain", "simclr", *tiny["pretrain"], *tiny["convolutional"], "--output", pretrained)
    assert answer.status == 0
    assert "nothing to do" in answer.out
    assert (pretrained / "result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("method", METHODS)
def test_written_configuration_runs_again(method: str, pretraining: Callable, run: Callable, tmp_path: Path) -> None:
    first, second = pretraining(method).folder, tmp_path / "second"
    answer = run("pretrain", "--config", first / "config.yaml", "--output", second)
    assert answer.status == 0, answer.err
    settings = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (first, second)]
    assert settings[0].pop("output") != settings[1].pop("output")
    assert settings[0] == settings[1]
    weights = [load_file(folder / "backbone" / "backbone.safetensors") for folder in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_transfer_goes_on_from_a_backbone(transferred: Finished) -> None:
    folder = transferred.folder
    result = json.loads((folder / "result.json").read_text())
    assert list(result["phases"]) == ["head", "finetune"]
    assert result["chosen"] in result["phases"]
    assert (result["num_train"], result["num_validation"]) == (20, 20)
    for name, phase in result["phases"].items():
        assert set(phase["validation"]) & set(phase["test"]) >= {
            "accuracy",
            "balanced_accuracy",
            "macro_f1",
            "log_loss",
        }
        assert f"{phase['test']['accuracy']:.1%}" in transferred.out
        assert name in transferred.out
    preferred = max(
        result["phases"].values(),
        key=lambda phase: (phase["validation"]["accuracy"], -phase["validation"]["log_loss"]),
    )
    assert preferred == result["phases"][result["chosen"]]
    logged = read_lines(folder / "metrics.jsonl")
    assert {line["phase"] for line in logged} == {"head", "finetune", "chosen"}
    assert logged[-1]["accuracy"] == result["phases"][result["chosen"]]["test"]["accuracy"]
    description = json.loads((folder / "backbone" / "backbone.json").read_text())
    assert description["provenance"]["init"]["method"] == "simclr"
    head = json.loads((folder / "head" / "head.json").read_text())
    assert head["classes"] == [str(digit) for digit in range(10)]


def test_head_phase_leaves_the_backbone_alone(transferred: Finished, pretrained: Path) -> None:
    """The checkpoint of the first phase holds the pretrained weights, statistics included; the second moves them."""
    folder = transferred.folder
    start = load_file(pretrained / "backbone" / "backbone.safetensors")
    states = {
        phase: torch.load(folder / "checkpoints" / f"{phase}.pt", weights_only=True)["objective"]
        for phase in ("head", "finetune")
    }
    assert len(start) > 20
    assert all(torch.equal(states["head"][f"backbone.model.{name}"], value) for name, value in start.items())
    moved = [not torch.equal(states["finetune"][f"backbone.model.{name}"], value) for name, value in start.items()]
    assert all(moved)


def test_transfer_from_a_transferred_model(transferred: Finished, run: Callable, tmp_path: Path, tiny: dict) -> None:
    answer = run("transfer", "--init", transferred.folder, *tiny["transfer"], "--output", tmp_path / "second")
    assert answer.status == 0, answer.err


def test_transfer_configuration_runs_again(transferred: Finished, run: Callable, tmp_path: Path) -> None:
    first, second = transferred.folder, tmp_path / "second"
    answer = run("transfer", "--config", first / "config.yaml", "--output", second)
    assert answer.status == 0, answer.err
    results = [json.loads((folder / "result.json").read_text()) for folder in (first, second)]
    for result in results:
        for phase in result["phases"].values():
            del phase["seconds"], phase["peak_memory_mb"]
    assert results[0] == results[1]


@pytest.mark.parametrize(("split", "count"), [("validation", 201), ("test", 450)])
def test_evaluate_prints_the_accuracy_of_neighbours(split: str, count: int, run: Callable, pretrained: Path) -> None:
    answer = run("evaluate", pretrained, "--data", "digits", "--split", split)
    assert answer.status == 0, answer.err
    assert f"{pretrained}: {count} images of {split}, digits" in answer.out
    assert "kNN, k 20" in answer.out
    if split == "validation":
        measured = json.loads((pretrained / "result.json").read_text())["knn_accuracy"]
        assert f"{measured:.1%}" in answer.out


def test_default_output_names_what_it_is(run: Callable, tmp_path: Path, tiny: dict) -> None:
    for plan, name in (((), ""), (("--plan", "partial", "last:1"), "-partial-last-1")):
        answer = run("transfer", *tiny["transfer"], *tiny["convolutional"], *plan)
        assert answer.status == 0, answer.err
        assert (tmp_path / "runs" / f"transfer-scratch-resnet10t-digits-2{name}-seed0" / "result.json").is_file()


def test_fresh_moves_the_old_run_aside(run: Callable, tmp_path: Path, tiny: dict) -> None:
    folder = tmp_path / "run"
    flags = (*tiny["pretrain"], *tiny["convolutional"], "--epochs", 1, "--output", folder)
    assert run("pretrain", "simclr", *flags).status == 0
    before = (folder / "backbone" / "backbone.safetensors").read_bytes()
    assert run("pretrain", "simclr", *flags, "--seed", 1, "--fresh").status == 0
    assert (tmp_path / "run.old-1" / "backbone" / "backbone.safetensors").read_bytes() == before
    assert (folder / "backbone" / "backbone.safetensors").read_bytes() != before
    assert run("pretrain", "simclr", *flags, "--fresh").status == 0
    assert (tmp_path / "run.old-1" / "backbone" / "backbone.safetensors").read_bytes() == before
    assert (tmp_path / "run.old-2").is_dir()
    # The same settings once more, from nothing: the same weights.
    assert (folder / "backbone" / "backbone.safetensors").read_bytes() == before


def test_images_of_the_pool_are_not_tested_after_another_division(run: Callable, pretrained: Path, tiny: dict) -> None:
    transfer = ("transfer", "--init", pretrained, *tiny["transfer"])
    answer = run(*transfer, "--loading.split-seed", 7, "--output", "stopped")
    assert answer.status == 2
    assert "was trained on" in answer.err
    assert not Path("stopped").exists()
    answer = run("evaluate", pretrained, "--loading.split-seed", 7)
    assert answer.status == 2
    answer = run("evaluate", pretrained, "--loading.split-seed", 7, "--loading.leakage", "drop")
    assert answer.status == 0, answer.err
    answer = run(*transfer, "--loading.split-seed", 7, "--loading.leakage", "drop", "--output", "dropped")
    assert answer.status == 0, answer.err
    assert "left out" in answer.out


def test_a_transferred_backbone_says_what_it_saw_before(
    transferred: Finished, run: Callable, pretrained: Path, tiny: dict
) -> None:
    first = transferred.folder
    assert set(np.load(pretrained / "backbone" / "seen.npy")) == set(np.load(first / "backbone" / "seen.npy"))
    answer = run("transfer", "--init", first, *tiny["transfer"], "--loading.split-seed", 7, "--output", "second")
    assert answer.status == 2
    assert "was trained on" in answer.err


def test_transfer_takes_the_image_size_of_its_run(run: Callable, pretrained: Path, tiny: dict) -> None:
    flags = [flag for flag in tiny["transfer"] if flag not in ("--image-size", "16")]
    answer = run("transfer", "--init", pretrained, *flags, "--output", "run")
    assert answer.status == 0, answer.err
    assert yaml.safe_load(Path("run/config.yaml").read_text())["image_size"] == 16


def test_a_queue_larger_than_the_pool(run: Callable, tmp_path: Path, tiny: dict, draw_images: Callable) -> None:
    """The default becomes what the pool allows, and is said and kept; a size that was asked for is refused."""
    data = draw_images(tmp_path / "data", disc=30, square=30)
    flags = ("--data", f"folder:{data}", "--image-size", 16, "--epochs", 1, "--batch-size", 16, *tiny["convolutional"])
    answer = run("pretrain", "moco", *flags, "--output", tmp_path / "run")
    assert answer.status == 0, answer.err
    pool = len(np.load(tmp_path / "run" / "backbone" / "seen.npy"))
    assert pool < 60
    assert f"queue_size: {pool} instead of 1024, for {pool} images" in answer.out
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["method"]["queue_size"] == pool
    assert "nothing to do" in run("pretrain", "moco", *flags, "--output", tmp_path / "run").out
    answer = run("pretrain", "moco", *flags, "--method.queue-size", 500, "--output", tmp_path / "other")
    assert answer.status == 2
    assert f"queue_size 500: the pool has {pool} images" in answer.err
