"""Pretraining that goes on from ImageNet weights or from another run, and its arms in a comparison."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file

RATE = ("--optimizer.learning-rate", "1e-9")
"""So small that what is exported is what training began with, to a millionth."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the tiny network's classifier for colour images, under timm's names."""
    torch.manual_seed(23)
    # As `tiny["convolutional"]`, but with a first layer that timm knows, so that it is fitted to grey images.
    model = timm.create_model("resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), zero_init_last=False)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def imagenet(weights: Path) -> tuple[object, ...]:
    """Flags of the network and its weights."""
    return ("--imagenet-weights", weights, "--backbone.name", "resnet18", "--backbone.stem", "standard", *ARGUMENTS)


ARGUMENTS = ("--backbone.arguments", "layers=(1,1,1,1)", "channels=(8,8,16,16)", "zero_init_last=False")


def exported(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The weights of a run's backbone, and their description."""
    description = json.loads((folder / "backbone" / "backbone.json").read_text())
    return load_file(folder / "backbone" / "backbone.safetensors"), description


def parameters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the statistics of BatchNorm, which move without gradients."""
    return {name: value for name, value in state.items() if "running" not in name and "num_batches" not in name}


@pytest.mark.parametrize("method", ["simclr", "moco", "autoencoder"])
def test_begins_at_imagenet_weights(
    method: str, run: Callable, tmp_path: Path, tiny: dict, weights: Path, imagenet: tuple
) -> None:
    answer = run("pretrain", method, "--init", "imagenet", *imagenet, *tiny["pretrain"], "--epochs", 1, *RATE)
    assert answer.status == 0, answer.err
    assert f"from imagenet with {method}" in answer.out
    folder = tmp_path / "runs" / f"pretrain-imagenet+{method}-resnet18-digits-seed0"
    state, description = exported(folder)
    # The digits are grey: the first layer is the sum over colours, the normalisation the average.
    expected = load_file(weights)
    expected["conv1.weight"] = expected["conv1.weight"].sum(dim=1, keepdim=True)
    assert len(parameters(state)) > 10
    for name, value in parameters(state).items():
        assert torch.allclose(value, expected[name], atol=1e-6), name
    assert not torch.equal(state["conv1.weight"], expected["conv1.weight"])
    assert description["backbone"]["mean"] == pytest.approx([0.449])
    assert description["provenance"]["init"] == {"init": "imagenet"}
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["objective"]
    copies = [name for name in state if name.endswith("model.conv1.weight")]
    assert copies == ["backbone.model.conv1.weight", "key_backbone.model.conv1.weight"][: 1 + (method == "moco")]
    for name in copies:
        assert torch.allclose(state[name], expected["conv1.weight"], atol=1e-6)


def test_another_start_is_refused_by_name(
    run: Callable, tmp_path: Path, tiny: dict, weights: Path, imagenet: tuple
) -> None:
    folder = tmp_path / "run"
    _, _, *network = imagenet
    flags = ("pretrain", "simclr", *tiny["pretrain"], "--epochs", 1, "--output", folder, *network)
    answer = run(*flags, "--init", "imagenet", "--imagenet-weights", weights)
    assert answer.status == 0, answer.err
    before = (folder / "result.json").read_bytes()
    moved = shutil.copy(weights, tmp_path / "elsewhere.safetensors")
    answer = run(*flags, "--init", "imagenet", "--imagenet-weights", moved)
    assert (answer.status, "nothing to do" in answer.out) == (0, True), answer.err
    other = {name: value + 0.5 if value.is_floating_point() else value for name, value in load_file(weights).items()}
    save_file(other, tmp_path / "other.safetensors")
    for changed in (("--init", "imagenet", "--imagenet-weights", tmp_path / "other.safetensors"), ()):
        answer = run(*flags, *changed)
        assert answer.status == 2
        assert "holds a run with another init" in answer.err
    assert (folder / "result.json").read_bytes() == before


def test_goes_on_from_a_run(run: Callable, tmp_path: Path, pretrained: Path, tiny: dict) -> None:
    """Architecture, normalisation and image size are the run's; the chain of provenance is kept; all is repeatable."""
    flags = ("pretrain", "autoencoder", "--init", pretrained, "--epochs", 1, "--batch-size", 256)
    for name in ("first", "second"):
        answer = run(*flags, "--output", name)
        assert answer.status == 0, answer.err
    before, described = exported(pretrained)
    (state, description), (again, _) = exported(Path("first")), exported(Path("second"))
    assert description["backbone"] == described["backbone"]
    assert description["provenance"]["method"] == "autoencoder"
    assert description["provenance"]["init"]["method"] == "simclr"
    assert all(torch.equal(state[name], value) for name, value in again.items())
    assert not torch.equal(state["conv1.weight"], before["conv1.weight"])
    settings = yaml.safe_load(Path("first/config.yaml").read_text())
    assert (settings["backbone"]["name"], settings["image_size"]) == ("resnet10t", 16)
    # What was written can be run again, and there is nothing left to do.
    answer = run("pretrain", "--config", "first/config.yaml")
    assert (answer.status, "nothing to do" in answer.out) == (0, True), answer.err
    answer = run(*flags, *RATE, "--image-size", 24, "--output", "larger")
    assert answer.status == 0, answer.err
    state, description = exported(Path("larger"))
    assert description["backbone"] == {**described["backbone"], "image_size": 24}
    assert all(torch.allclose(state[name], value, atol=1e-6) for name, value in parameters(before).items())


def test_the_normalisation_of_a_run_is_kept(
    run: Callable, tmp_path: Path, pretrained: Path, tiny: dict, draw_images: Callable
) -> None:
    draw_images(tmp_path / "images", disc=20, square=20)
    data = ("--data", "folder:images", "--loading.cache", "cache", "--loading.channels", "grey")
    answer = run("pretrain", "simclr", "--init", pretrained, *data, "--epochs", 1, "--batch-size", 16)
    assert answer.status == 0, answer.err
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "pretrain-run+simclr-resnet10t-images-seed0"
    assert exported(folder)[1]["backbone"] == exported(pretrained)[1]["backbone"]
    seen = set(np.load(folder / "backbone" / "seen.npy"))
    before = set(np.load(pretrained / "backbone" / "seen.npy"))
    assert before < seen
    assert len(seen) > len(before) + 20


def test_images_of_either_pretraining_are_not_tested(run: Callable, pretrained: Path, tiny: dict) -> None:
    flags = ("pretrain", "simclr", "--init", pretrained, "--epochs", 1, "--batch-size", 256, "--loading.split-seed", 7)
    answer = run(*flags, "--output", "stopped")
    assert answer.status == 2
    assert "was trained on" in answer.err
    assert not Path("stopped").exists()
    answer = run(*flags, "--loading.leakage", "drop", "--output", "both")
    assert answer.status == 0, answer.err
    assert "left out" in answer.out
    # Of both divisions some test images were in a pool: of the first one here in the second's, and the other way round.
    for split_seed in (0, 7):
        answer = run("transfer", "--init", "both", *tiny["transfer"], "--loading.split-seed", split_seed)
        assert answer.status == 2
        assert "both was trained on" in answer.err


def test_arms_that_go_on_from_imagenet(run: Callable, tmp_path: Path, tiny: dict, imagenet: tuple) -> None:
    flags = ("compare", *tiny["compare"], *imagenet, "--labels", 1, "--seeds", 0, "--output", "run")
    answer = run(*flags, "--arms", "scratch", "simclr", "imagenet+simclr", "--simclr.optimizer.learning-rate", "1e-9")
    assert answer.status == 0, answer.err
    with open("run/summary.csv", encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if (line["phase"], line["metric"]) == ("chosen", "accuracy")]
    assert [(line["arm"], line["baseline"]) for line in lines] == [
        *(("scratch", ""), ("imagenet", "scratch"), ("simclr", "scratch"), ("simclr", "imagenet")),
        *(("imagenet+simclr", "scratch"), ("imagenet+simclr", "imagenet")),
    ]
    folders = {path.name.partition("-")[0]: path for path in Path("run/pretrain").iterdir()}
    assert set(folders) == {"simclr", "imagenet+simclr"}
    configs = {name: yaml.safe_load((path / "config.yaml").read_text()) for name, path in folders.items()}
    differing = {key for key in configs["simclr"] if configs["simclr"][key] != configs["imagenet+simclr"][key]}
    assert differing == {"init", "imagenet_weights", "output"}
    expected = load_file(imagenet[1])
    found = exported(folders["imagenet+simclr"])[0]
    assert torch.allclose(found["layer1.0.conv1.weight"], expected["layer1.0.conv1.weight"], atol=1e-6)
    epochs = json.loads(Path("run/comparison.json").read_text())["epochs"]
    assert epochs == {"simclr": 1, "imagenet+simclr": 1}
    # Once more: nothing is left to do.
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("result.json")}
    assert len(before) == 2 + 4
    assert run(*flags, "--arms", "imagenet+simclr", "simclr", "--simclr.optimizer.learning-rate", "1e-9").status == 0
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("result.json")} == before
