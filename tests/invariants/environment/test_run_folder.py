"""A run's folder belongs to one run: these settings, these images, these weights, one writer."""

import shutil
from collections.abc import Callable
from pathlib import Path

import filelock
import numpy as np
import pytest
from PIL import Image

from ssl_transfer.engine.io.ownership import LOCK, MARKER, own_folder


def command(folder: Path, flags: dict) -> tuple[object, ...]:
    return ("pretrain", "simclr", "--image-size", 16, "--epochs", 1, *flags["convolutional"], "--output", folder)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and MARKER not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def draw(folder: Path, seed: int) -> None:
    """Ten images in each of two classes."""
    generator = np.random.default_rng(seed)
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "stopped"])
def test_other_images_are_refused(
    finished: bool, run: Callable, flags: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "images", seed=0)
    output = tmp_path / "run"
    images = ("--data", f"folder:{tmp_path / 'images'}", "--loading.cache", tmp_path / "cache", "--batch-size", 8)
    assert run(*command(output, flags), *images) == 0
    if not finished:
        (output / "result.json").unlink()
    before = contents(output)
    draw(tmp_path / "images", seed=1)
    assert run(*command(output, flags), *images) == 2
    message = capsys.readouterr().err
    assert "holds a run with another data" in message
    assert "--fresh" in message
    assert contents(output) == before


def test_other_weights_are_refused(
    run: Callable, flags: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--init` names a folder; what counts is the backbone in it, wherever it lies."""
    first, second, output = tmp_path / "first", tmp_path / "second", tmp_path / "run"
    assert run(*command(first, flags)) == 0
    assert run(*command(second, flags), "--seed", 1) == 0
    few = ("--image-size", 16, "--labels", 1, "--epochs", 1, "--head-steps", 2, "--finetune-steps", 2)
    assert run("transfer", "--init", first, *few, "--output", output) == 0
    before = contents(output)["result.json"]
    assert run("transfer", "--init", shutil.copytree(first, tmp_path / "copy"), *few, "--output", output) == 0
    capsys.readouterr()
    assert run("transfer", "--init", second, *few, "--output", output) == 2
    assert "holds a run with another init" in capsys.readouterr().err
    assert contents(output)["result.json"] == before


def test_moved_comparison_goes_on(run: Callable, flags: dict, tmp_path: Path) -> None:
    few = (
        *("compare", "--image-size", 16, "--epochs", 1, "--arms", "simclr", "--labels", 1, *flags["convolutional"]),
        *("--transfer.epochs", 1, "--transfer.head-steps", 2, "--transfer.finetune-steps", 2, "--pretrain-seeds", 1),
    )
    assert run(*few, "--seeds", 0, "--output", tmp_path / "before") == 0
    (tmp_path / "before").rename(tmp_path / "after")
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "after").rglob("result.json")}
    assert len(done) == 3
    assert run(*few, "--seeds", 0, 1, "--output", "after") == 0
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "after").rglob("result.json")}
    assert len(now) == 5
    assert done.items() < now.items()


def test_second_writer_is_refused(
    run: Callable, flags: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    own_folder(output)
    with filelock.FileLock(output / LOCK):
        assert run(*command(output, flags)) == 2
    assert "another process is writing this run" in capsys.readouterr().err
    assert contents(output) == {}
    assert run(*command(output, flags)) == 0


def test_fresh_leaves_a_run_under_way_alone(
    run: Callable, flags: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert run(*command(output, flags)) == 0
    (output / "result.json").unlink()
    before = contents(output)
    with filelock.FileLock(output / LOCK):
        assert run(*command(output, flags), "--fresh") == 2
    assert "another process is writing this run" in capsys.readouterr().err
    assert contents(output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
