"""Images of the user's own: a folder of classes, with and without parts, through compare."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def flags(tiny: dict, tmp_path: Path) -> tuple[object, ...]:
    return (
        *(*tiny["compare"], *tiny["convolutional"], "--loading.cache", tmp_path / "cache", "--batch-size", 16),
        *("--arms", "simclr", "--labels", 2, "--seeds", 0, "--output", tmp_path / "run"),
    )


def test_bare_classes_are_divided(run: Callable, draw_images: Callable, tmp_path: Path, flags: tuple) -> None:
    images = draw_images(tmp_path / "images", disc=24, square=20, cross=16)
    answer = run("compare", "--data", f"folder:{images}", *flags)
    assert answer.status == 0, answer.err
    described = json.loads((tmp_path / "run" / "comparison.json").read_text())
    # A quarter of each class is for the test, 15 % of the others for validation.
    assert (described["num_test"], described["num_pool"]) == (6 + 5 + 4, 24 + 20 + 16 - 15 - 3 - 2 - 2)
    assert "3 classes; 3 x 18 x 18 pixels stored" in answer.out
    assert "simclr on resnet10t" in answer.out


def test_given_parts_are_kept(run: Callable, draw_images: Callable, tmp_path: Path, flags: tuple) -> None:
    images = tmp_path / "images"
    draw_images(images / "train", seed=1, disc=12, square=12)
    draw_images(images / "val", seed=2, disc=3, square=4)
    draw_images(images / "test", seed=3, disc=5, square=6)
    draw_images(images / "unlabeled", seed=4, anything=9)
    answer = run("compare", "--data", f"folder:{images}", *flags)
    assert answer.status == 0, answer.err
    assert "9 unlabeled, 24 train, 7 validation, 11 test; 2 classes" in answer.out
    assert json.loads((tmp_path / "run" / "comparison.json").read_text())["num_pool"] == 9 + 24


def test_unlabelled_images_suffice_for_pretraining(
    run: Callable, draw_images: Callable, tmp_path: Path, tiny: dict
) -> None:
    images = draw_images(tmp_path / "images" / "unlabeled", disc=20, square=20).parent
    small = (*tiny["pretrain"], *tiny["convolutional"], "--batch-size", 16, "--loading.cache", tmp_path / "cache")
    answer = run("pretrain", "simclr", "--data", f"folder:{images}", *small, "--output", tmp_path / "run")
    assert answer.status == 0, answer.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "knn_accuracy" not in result
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["split"] == "validation"
    assert last["effective_rank"] == result["effective_rank"] > 1.0


def test_grey_images_have_one_channel(run: Callable, draw_images: Callable, tmp_path: Path, flags: tuple) -> None:
    images = draw_images(tmp_path / "images", disc=20, square=20)
    for path in images.rglob("*.*"):
        Image.open(path).convert("L").save(path)
    answer = run("compare", "--data", f"folder:{images}", *flags)
    assert answer.status == 0, answer.err
    assert "1 x 18 x 18 pixels stored" in answer.out


def test_unreadable_image_is_named_and_counted(
    run: Callable, draw_images: Callable, tmp_path: Path, flags: tuple
) -> None:
    images = draw_images(tmp_path / "images", disc=30, square=30)
    (images / "disc" / "broken.png").write_bytes(b"not an image")
    refused = run("compare", "--data", f"folder:{images}", *flags)
    assert refused.status == 2
    assert "1 of 61 images cannot be read" in refused.err
    assert "broken.png" in refused.err
    assert "--loading.max-unreadable" in refused.err
    answer = run("compare", "--data", f"folder:{images}", *flags, "--loading.max-unreadable", 0.05)
    assert answer.status == 0, answer.err
    assert "broken.png" in answer.out
    assert "They are left out." in answer.out


def test_second_load_decodes_nothing(run: Callable, draw_images: Callable, tmp_path: Path, flags: tuple) -> None:
    images = draw_images(tmp_path / "images", disc=20, square=20)
    assert run("compare", "--data", f"folder:{images}", *flags).status == 0
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/pixels.npy")}
    assert len(files) == 1
    other = (*flags, "--output", tmp_path / "other")
    assert run("compare", "--data", f"folder:{images}", *other).status == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*/pixels.npy")} == files
