"""A pickle with code in it, wherever a command reads a file that may come from others, is refused and never run."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

BACKBONES = {"timm": "resnet10t", "torchvision": "torchvision/mobilenet_v3_small"}


class Planted:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "the code ran"


@pytest.fixture
def plant(mark: Path) -> Callable[[Path, str], None]:
    """`plant(file, form)` overwrites a file: `torch`, `old torch`, `pickle`, `npy` or `npz`."""

    def write(file: Path, form: str) -> None:
        if form == "pickle":
            file.write_bytes(pickle.dumps({"model": Planted(mark)}))
        elif form.endswith("torch"):
            torch.save({"model": Planted(mark)}, file, _use_new_zipfile_serialization=form == "torch")
        else:
            array = np.array([Planted(mark)] * 20, dtype=object)
            with open(file, "wb") as content:
                np.save(content, array) if form == "npy" else np.savez(content, images=array, hits=array, names=array)

    return write


@pytest.fixture
def refused(run: Callable, mark: Path) -> Callable[..., None]:
    """`refused("name", *command)`: it ends with status 2 and a message that holds the name; the code has not run."""

    def check(name: str, *command: object) -> None:
        answer = run(*command)
        assert answer.status == 2, answer.out + answer.err
        assert name in answer.err
        assert "Traceback" not in answer.err
        assert not mark.exists()

    return check


@pytest.mark.parametrize("form", ["torch", "old torch", "pickle"])
def test_a_checkpoint(
    run: Callable, plant: Callable, refused: Callable, tiny: dict, pretrained: Path, tmp_path: Path, form: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    (folder / "result.json").unlink()
    files = list((folder / "checkpoints").iterdir())
    assert files
    for file in files:
        plant(file, form)
    command = ("pretrain", "simclr", *tiny["pretrain"], *tiny["convolutional"], "--output", folder)
    refused("checkpoint", *command)


@pytest.mark.parametrize("form", ["torch", "old torch", "pickle", "npz"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("library", BACKBONES)
def test_weights(
    plant: Callable, refused: Callable, tiny: dict, tmp_path: Path, library: str, suffix: str, form: str
) -> None:
    file = tmp_path / f"weights{suffix}"
    plant(file, form)
    flags = ("--imagenet-weights", file, "--backbone.name", BACKBONES[library])
    refused(str(file), "transfer", "--init", "imagenet", *tiny["transfer"], *flags)


@pytest.mark.parametrize("form", ["torch", "old torch"])
def test_weights_that_a_library_keeps(
    plant: Callable, refused: Callable, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Refuse code in weights that a library has in its cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    url = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.url
    plant(tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2], form)
    flags = ("--init", "imagenet", "--backbone.name", BACKBONES["torchvision"])
    refused("cannot be had from torchvision's hub", "transfer", *flags, *tiny["transfer"])


@pytest.mark.parametrize("form", ["torch", "pickle"])
@pytest.mark.parametrize("command", ["transfer", "distill", "evaluate"])
def test_a_backbone(
    plant: Callable, refused: Callable, tiny: dict, pretrained: Path, tmp_path: Path, command: str, form: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    if command == "distill":
        shutil.copytree(folder / "backbone", folder / "head")
        (folder / "head" / "backbone.json").rename(folder / "head" / "head.json")
        (folder / "head" / "backbone.safetensors").rename(folder / "head" / "head.safetensors")
    for file in folder.rglob("*.safetensors"):
        plant(file, form)
    flags = {
        "transfer": ("--init", folder, *tiny["transfer"]),
        "distill": ("--teacher", folder, "--student", "resnet10t", "--image-size", 16),
        "evaluate": (folder, "--data", "digits"),
    }
    refused(str(folder), command, *flags[command])


def test_the_images_that_a_backbone_has_seen(
    plant: Callable, refused: Callable, tiny: dict, pretrained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    plant(folder / "backbone" / "seen.npy", "npy")
    refused("seen.npy", "transfer", "--init", folder, *tiny["transfer"])


@pytest.mark.parametrize("form", ["npz", "pickle"])
def test_images(plant: Callable, refused: Callable, tmp_path: Path, form: str) -> None:
    plant(tmp_path / "images.npz", form)
    refused("images.npz", "data", "check", f"npz:{tmp_path / 'images.npz'}")


@pytest.mark.parametrize("column", ["kept", "rows", "sizes", "pixels"])
def test_a_column_of_the_cache(
    run: Callable, plant: Callable, mark: Path, tmp_path: Path, draw_images: Callable, column: str
) -> None:
    images, cache = draw_images(tmp_path / "images", disc=12, square=12), tmp_path / "cache"
    command = ("data", "check", f"folder:{images}", "--loading.cache", cache, "--output", tmp_path / "check")
    assert run(*command).status in (0, 1)
    (file,) = cache.rglob(f"{column}.npy")
    size = file.stat().st_size
    plant(file, "npy")
    # As large as the record says.
    content = file.read_bytes()
    file.write_bytes(content[:size].ljust(size, b"\0"))
    answer = run(*command)
    assert "damaged" in answer.out
    assert "the images are decoded again" in answer.out
    assert answer.status in (0, 1), answer.err
    assert not mark.exists()
    if column == "kept":
        refused_listing = run("data", "cache", "--loading.cache", cache)
        assert "Traceback" not in refused_listing.err


def test_what_a_run_predicted_and_what_a_comparison_got_right(
    run: Callable, plant: Callable, refused: Callable, tiny: dict, tmp_path: Path
) -> None:
    folder = tmp_path / "compared"
    sizes = (*tiny["compare"], *tiny["convolutional"], "--labels", 1, "--seeds", 0)
    command = ("compare", *sizes, "--output", folder, "--arms", "scratch")
    assert run(*command).status == 0
    hits = (folder / "test_hits.npz").read_bytes()
    for form in ("npz", "pickle"):
        plant(folder / "test_hits.npz", form)
        refused("test_hits.npz", "report", folder)
    (folder / "test_hits.npz").write_bytes(hits)
    (predicted,) = folder.rglob("predicted.npy")
    plant(predicted, "npy")
    refused("predicted.npy", *command)


@pytest.mark.parametrize("name", ["config.yaml", "asked.yaml"])
def test_settings(run: Callable, mark: Path, pretrained: Path, tiny: dict, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(pretrained, folder)
    (folder / name).write_text(f"epochs: !!python/object/apply:builtins.open [{str(mark)!r}, w]\n")
    asked = ("--config", folder / name) if name == "asked.yaml" else ("--output", folder)
    answer = run("pretrain", "simclr", *tiny["pretrain"], *tiny["convolutional"], *asked)
    assert answer.status == 2, answer.out + answer.err
    assert "Traceback" not in answer.err
    assert not mark.exists()
