"""Arms that take weights as they are, several backbones at once, and tuning: the real command, on tiny networks."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

TAGS = ("test_resnet.r160_in1k", "test_vit.r160_in1k")
"""Models of timm that are made for tests, with weights on its hub: of less than half a million parameters."""


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache on this disk, as its client lays it out, with random weights of two models; it is offline."""
    cache = tmp_path / "hub"
    for number, tag in enumerate(TAGS):
        repository = cache / f"models--timm--{tag}"
        torch.manual_seed(number)
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("commit")
        (repository / "snapshots" / "commit").mkdir(parents=True)
        save_file(timm.create_model(tag).state_dict(), repository / "snapshots" / "commit" / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


def pairs(folder: Path) -> set[tuple[str, str]]:
    """(arm, backbone) in the table of results."""
    return {(line["arm"], line["backbone"]) for line in read(folder / "results.csv")}


def state_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}


def test_a_run_and_weights_of_timm_stand_beside_a_method(
    run: Callable, tmp_path: Path, tiny: dict, pretrained: Path, hub: Path
) -> None:
    folder = tmp_path / "run"
    flags = ("compare", *tiny["compare"], *tiny["convolutional"], "--labels", 1, "--seeds", 0, "--output", folder)
    arms = ("--arms", "simclr", pretrained, f"timm:{TAGS[0]}")
    answer = run(*flags, *arms)
    assert answer.status == 0, answer.err
    assert pairs(folder) == {
        *(("scratch", "resnet10t"), ("simclr", "resnet10t"), ("run:run", "resnet10t")),
        *(("scratch", "test_resnet"), (f"timm:{TAGS[0]}", "test_resnet")),
    }
    names = {path.name for path in (folder / "transfer").iterdir()}
    assert all(set(name) & set(':\\" ') == set() for name in names)
    assert sum(name.startswith(f"timm-{TAGS[0]}-test_resnet-") for name in names) == 1
    assert sum(name.startswith("run-run-resnet10t-") for name in names) == 1
    # What the run cost stands in its own folder.
    cost = json.loads((pretrained / "result.json").read_text())["seconds"]
    costs = {
        line["arm"]: float(line["value"])
        for line in read(folder / "results.csv")
        if line["metric"] == "pretrain_seconds"
    }
    assert costs["run:run"] == cost
    assert costs["scratch"] == costs[f"timm:{TAGS[0]}"] == 0.0 < costs["simclr"]
    comparison = json.loads((folder / "comparison.json").read_text())
    assert comparison["starts"] == {"run:run": str(pretrained), f"timm:{TAGS[0]}": f"timm:{TAGS[0]}"}
    assert comparison["warnings"] == []
    report = (folder / "report.md").read_text()
    assert f"run:run takes its weights as they are, from `{pretrained}`" in report
    # Nothing is done twice, wherever the run lies by now, whatever its arm is called.
    before = state_of(folder)
    moved = shutil.copytree(pretrained, tmp_path / "elsewhere" / "run")
    answer = run(*flags, "--arms", "simclr", moved, f"timm:{TAGS[0]}")
    assert answer.status == 0, answer.err
    assert state_of(folder) == before


def test_a_run_whose_images_are_not_known_is_warned_of(
    run: Callable, tmp_path: Path, tiny: dict, pretrained: Path, unseal: Callable
) -> None:
    copied = shutil.copytree(pretrained, tmp_path / "copy")
    (copied / "backbone" / "seen.npy").unlink()
    # As an older version left it.
    unseal(copied)
    description = json.loads((copied / "backbone" / "backbone.json").read_text())
    del description["seen.npy"], description["checksum"]
    (copied / "backbone" / "backbone.json").write_text(json.dumps(description))
    folder = tmp_path / "run"
    answer = run("compare", *tiny["compare"], "--labels", 1, "--seeds", 0, "--output", folder, "--arms", copied)
    assert answer.status == 0, answer.err
    warnings = json.loads((folder / "comparison.json").read_text())["warnings"]
    assert len(warnings) == 2
    assert any(one.startswith(f"it is not known which images {copied} was trained on") for one in warnings)
    assert any("without checksums, of an older version" in one for one in warnings)
    assert "warning: it is not known" in answer.out
    assert "it is not known which images" in (folder / "report.md").read_text()


def test_weights_of_timm_are_taken_with_their_normalisation(run: Callable, tmp_path: Path, hub: Path) -> None:
    """The head phase alone leaves the backbone as it was: that of the hub, its first layer fitted to grey images."""
    folder = tmp_path / "run"
    flags = ("--labels", 1, "--epochs", 1, "--head-steps", 2, "--plan", "feature-extraction", "--image-size", 32)
    answer = run("transfer", "--init", f"timm:{TAGS[0]}", *flags, "--output", folder)
    assert answer.status == 0, answer.err
    described = json.loads((folder / "backbone" / "backbone.json").read_text())
    assert (described["backbone"]["mean"], described["backbone"]["std"]) == ([0.5], [0.5])
    assert (described["backbone"]["name"], described["backbone"]["stem"]) == ("test_resnet", "standard")
    assert described["provenance"]["init"] == {"init": f"timm:{TAGS[0]}"}
    state = load_file(folder / "backbone" / "backbone.safetensors")
    (path,) = (hub / f"models--timm--{TAGS[0]}").rglob("model.safetensors")
    given = load_file(path)
    assert torch.allclose(state["conv1.0.weight"], given.pop("conv1.0.weight").sum(dim=1, keepdim=True))
    shared = state.keys() & given.keys()
    assert len(shared) == len(state) - 1
    assert all(torch.equal(state[name], given[name]) for name in shared)


def test_pretraining_goes_on_from_weights_of_timm(run: Callable, tmp_path: Path, tiny: dict, hub: Path) -> None:
    flags = ("--image-size", 32, "--epochs", 1, "--batch-size", 256, "--optimizer.learning-rate", "1e-9")
    answer = run("pretrain", "simclr", "--init", f"timm:{TAGS[1]}", *flags)
    assert answer.status == 0, answer.err
    folder = tmp_path / "runs" / f"pretrain-timm-{TAGS[1]}+simclr-test_vit-digits-seed0"
    state = load_file(folder / "backbone" / "backbone.safetensors")
    (path,) = (hub / f"models--timm--{TAGS[1]}").rglob("model.safetensors")
    name = "blocks.0.attn.qkv.weight"
    assert np.allclose(state[name], load_file(path)[name], atol=1e-5)


def test_weights_that_cannot_be_reached_are_named(run: Callable, tmp_path: Path, hub: Path) -> None:
    shutil.rmtree(hub / f"models--timm--{TAGS[1]}")
    folder = tmp_path / "run"
    answer = run("compare", "--arms", *(f"timm:{tag}" for tag in TAGS), "--image-size", 32, "--output", folder)
    assert answer.status == 2
    assert f"Weights of {TAGS[1]} cannot be had from timm's hub" in answer.err
    assert not folder.exists()


def test_every_backbone_has_its_own_baselines(
    run: Callable, tmp_path: Path, tiny: dict, hub: Path, draw_images: Callable
) -> None:
    folder, images = tmp_path / "run", draw_images(tmp_path / "images", disc=20, square=20)
    flags = (
        *("compare", *tiny["compare"], "--image-size", 32, "--batch-size", 16, "--data", f"folder:{images}"),
        *("--loading.cache", tmp_path / "cache", "--labels", 1, "--seeds", 0, "--output", folder),
        *("--backbone.stem", "standard", "--arms", "imagenet", "simclr", "mae"),
        *("--mae.method.decoder-width", 16, "--mae.method.decoder-depth", 1, "--mae.method.decoder-heads", 2),
    )
    answer = run(*flags, "--backbones", "test_vit")
    assert answer.status == 0, answer.err
    first = state_of(folder)
    answer = run(*flags, "--backbones", "test_resnet", "test_vit")
    assert answer.status == 0, answer.err
    assert pairs(folder) == {
        *((arm, name) for arm in ("scratch", "imagenet", "simclr") for name in ("test_resnet", "test_vit")),
        ("mae", "test_vit"),
    }
    # What was there stays: another backbone is more of the grid.
    assert first.items() < state_of(folder).items()


def test_every_arm_has_the_same_trials(run: Callable, tmp_path: Path, tiny: dict, pretrained: Path) -> None:
    folder = tmp_path / "run"
    flags = ("compare", *tiny["compare"], "--arms", pretrained, "--labels", 2, "--seeds", 0, "--output", folder)
    answer = run(*flags, "--tune", 3)
    assert answer.status == 0, answer.err
    results = [json.loads(path.read_text()) for path in (folder / "transfer").rglob("result.json")]
    tried = [
        [(trial["learning_rates"], trial["weight_decay"]) for trial in result["tuned"]["trials"]] for result in results
    ]
    assert len(tried[0]) == 3
    assert tried == [tried[0]] * 2
    key = ("arm", "phase", "metric", "split")
    rows = {tuple(line[name] for name in key): float(line["value"]) for line in read(folder / "results.csv")}
    for arm in ("scratch", "run:run"):
        assert rows[arm, "chosen", "num_trials", "validation"] == 3.0
        chosen = rows[arm, "chosen", "chosen_learning_rate", "validation"]
        assert chosen in {rate for rates, _ in tried[0] for rate in rates.values()}
    for name in ("report.md", "report.html"):
        report = (folder / name).read_text()
        assert "Tuned: 3 trials an arm, budget and seed" in report
        assert "none was tuned" not in report
        assert "of the rate." not in report
    assert list((folder / "transfer").rglob("*.pt")) == []
    before = state_of(folder)
    assert run(*flags, "--tune", 3).status == 0
    assert state_of(folder) == before
    answer = run(*flags, "--tune", 4)
    assert answer.status == 2
    assert "tune was 3 and is now 4" in answer.err
