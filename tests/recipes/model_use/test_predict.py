"""`predict`: the run's own predictions again, on images given in any way, and what cannot be predicted said."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from ssl_transfer.cli.main import main
from ssl_transfer.evaluation.predictions.calibration import fit_temperature


def train(folder: Path, tiny: dict, *flags: object) -> Path:
    """A short transfer run from scratch."""
    settings = map(str, (*tiny["transfer"], *tiny["convolutional"], "--seed", 3, *flags))
    main(["transfer", "--init", "scratch", *settings, "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def on_digits(tmp_path_factory: pytest.TempPathFactory, tiny: dict) -> Path:
    """A run on the digits. Read only."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    rate = ("--optimizer.learning-rate", 0.03, "--finetune-rate", 1, "--finetune-steps", 60)
    return train(folder, tiny, "--labels", 20, *rate)


@pytest.fixture
def shapes(draw_images: Callable, tiny: dict) -> Path:
    """A run on `folder:images`, colour pictures of 28 x 20 px of three classes."""
    draw_images(Path("images"), disc=20, square=20, cross=20)
    return train(Path("shapes"), tiny, "--data", "folder:images", "--loading.cache", "cache")


def read(path: Path | str = "predictions.csv") -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def of_test(run: Path, rows: list[dict[str, str]], prefix: str = "") -> list[dict[str, str]]:
    """The rows of the run's test images, in its order; the run's own predictions of them are asserted to agree."""
    by_name = {row["path"]: row for row in rows}
    own = read(run / "evaluation" / "predictions.csv")
    assert len(own) == len(np.load(run / "predicted.npy")) >= 10
    found = [by_name[prefix + row["name"]] for row in own]
    assert [row["predicted"] for row in found] == [row["predicted"] for row in own]
    given_now = [float(row["confidence"]) for row in found]
    np.testing.assert_allclose(given_now, [float(row["confidence_scaled"]) for row in own], atol=2e-5)
    return found


def test_the_test_images_of_the_run_on_digits(run: Callable, on_digits: Path) -> None:
    answer = run("predict", on_digits, "digits")
    assert answer.status == 0, answer.err
    rows = read()
    assert len(rows) == 1797
    found = of_test(on_digits, rows)
    assert [int(row["predicted"]) for row in found] == np.load(on_digits / "predicted.npy").tolist()
    assert list(rows[0]) == [
        *("path", "predicted", "confidence", "abstained", "error"),
        *(f"probability_{digit}" for digit in range(10)),
    ]
    values = np.array([[float(row[f"probability_{digit}"]) for digit in range(10)] for row in rows])
    np.testing.assert_allclose(values.sum(axis=1), 1.0, atol=1e-5)
    assert {row["abstained"] for row in rows} == {"False"}
    assert "probabilities are calibrated: temperature" in answer.out


def test_the_test_images_of_the_run_in_a_folder(run: Callable, shapes: Path) -> None:
    """Files of a folder, one by one and from a table, are the pixels that the run's own loading made of them."""
    assert run("predict", shapes, "images", "--output", "out/folder.csv").status == 0
    rows = read("out/folder.csv")
    assert len(rows) == 60
    of_test(shapes, rows, prefix="images/")
    names = [row["path"] for row in rows]
    Path("lists").mkdir()
    lines = [
        f"{number},../{name}" if number % 2 else f"{number},{Path(name).resolve()}" for number, name in enumerate(names)
    ]
    Path("lists/all.csv").write_text("id,where\n" + "\n".join(lines) + "\n")
    assert run("predict", shapes, "lists/all.csv", "--column", "where", "--output", "table.csv").status == 0
    assert run("predict", shapes, *names, "--output", "files.csv").status == 0
    assert run("predict", shapes, "folder:images", "--output", "data.csv").status == 0
    without_path = [{name: value for name, value in row.items() if name != "path"} for row in rows]
    for other in ("table.csv", "files.csv", "data.csv"):
        assert [{name: value for name, value in row.items() if name != "path"} for row in read(other)] == without_path
    assert [row["path"] for row in read("files.csv")] == names
    answer = run("predict", shapes, "lists/all.csv")
    assert answer.status == 2
    assert "no column path; there are id, where" in answer.err


def test_a_run_that_was_told_to_lose_colours_loses_them_again(run: Callable, draw_images: Callable, tiny: dict) -> None:
    draw_images(Path("images"), disc=20, square=20)
    grey = ("--loading.channels", "grey", "--loading.stored-size", 24)
    folder = train(Path("run"), tiny, "--data", "folder:images", "--loading.cache", "cache", *grey)
    assert run("predict", folder, "images").status == 0
    of_test(folder, read(), prefix="images/")


def test_deep_images_are_read_in_the_range_of_the_run(run: Callable, tiny: dict) -> None:
    generator = np.random.default_rng(0)
    for label, level in (("dark", 500), ("light", 2000)):
        (Path("deep") / label).mkdir(parents=True)
        for number in range(20):
            values = np.clip(generator.normal(level, 400, (20, 24)), 0, 4095).astype(np.uint16)
            tifffile.imwrite(Path("deep") / label / f"{number}.tif", values)
    folder = train(Path("run"), tiny, "--data", "folder:deep", "--loading.cache", "cache")
    assert run("predict", folder, "deep").status == 0
    of_test(folder, read(), prefix="deep/")
    other = Path("other.tif")
    tifffile.imwrite(other, generator.integers(60000, 65000, (20, 24), dtype=np.uint16))
    answer = run("predict", folder, other)
    assert answer.status == 2
    assert "another depth" in answer.err
    assert "--value-range LOW HIGH" in answer.err
    assert run("predict", folder, other, "--value-range", 0, 65535).status == 0
    Image.new("L", (20, 20), 90).save("eight.png")
    answer = run("predict", folder, "deep", "eight.png")
    assert answer.status == 0
    assert "eight.png: has uint8 values; the images of the run have uint16" in answer.err


def test_what_cannot_be_read_is_told_and_stops_nothing(run: Callable, shapes: Path) -> None:
    folder = Path("mixed")
    shutil.copytree("images/disc", folder)
    (folder / "broken.png").write_bytes(b"not an image")
    cut = (folder / "001.png").read_bytes()
    (folder / "cut.png").write_bytes(cut[: len(cut) // 2])
    Image.new("L", (9, 40), 200).save(folder / "grey.png")
    Image.new("RGBA", (30, 30), (200, 0, 0, 90)).save(folder / "transparent.webp")
    Path("list.csv").write_text('path\nmissing.png\n"a,b\n.png"\n')
    answer = run("predict", shapes, folder, "list.csv", "--abstain-below", "0.2")
    assert answer.status == 0, answer.err
    rows = {row["path"]: row for row in read()}
    assert len(rows) == 26
    problems = {Path(name).name: row["error"] for name, row in rows.items() if row["error"]}
    assert set(problems) == {"broken.png", "cut.png", "missing.png", "a,b\n.png"}
    assert problems["broken.png"] == "not an image"
    assert problems["missing.png"] == "there is no such file"
    for row in rows.values():
        assert (row["predicted"] == "") == bool(row["error"]) == (row["abstained"] == "")
    abstained = sum(row["abstained"] == "True" for row in rows.values())
    assert f"abstained on {abstained} of 22 images" in answer.out
    assert "warning: 4 images without a prediction: missing.png and 1 more: there is no such file; " in answer.err
    assert "mixed/broken.png: not an image" in answer.err
    answer = run("predict", shapes, "list.csv", folder / "broken.png", "--output", "none.csv")
    assert answer.status == 2
    assert "Not one of 3 images can be used" in answer.err
    assert not Path("none.csv").exists()
    assert not list(Path().glob(".none*"))


def test_colours_are_lost_only_when_asked(run: Callable, on_digits: Path, draw_images: Callable) -> None:
    draw_images(Path("images"), disc=3)
    answer = run("predict", on_digits, "images")
    assert answer.status == 2
    assert "has colours; the images of the run are grey (--to-grey" in answer.err
    assert run("predict", on_digits, "images", "--to-grey").status == 0
    assert len(read()) == 3


def test_the_threshold_and_the_temperature(run: Callable, on_digits: Path) -> None:
    answer = run("predict", on_digits, "digits", "--abstain-below", "0.6")
    rows = read()
    count = sum(float(row["confidence"]) < 0.6 for row in rows)
    assert 0 < count < len(rows)
    assert [row["abstained"] == "True" for row in rows] == [float(row["confidence"]) < 0.6 for row in rows]
    assert f"abstained on {count:,} of 1,797 images" in answer.out
    held = read(on_digits / "evaluation" / "predictions_validation.csv")
    kept = [row["label"] == row["predicted"] for row in held if float(row["confidence_scaled"]) >= 0.6]
    told = f"On validation {len(kept)} of {len(held)} images reach it; {sum(kept) / len(kept):.1%} of them are right"
    assert told in answer.out
    answer = run("predict", on_digits, "digits", "--uncalibrated", "--output", "plain.csv")
    assert "not calibrated (--uncalibrated)" in answer.out
    metrics = json.loads((on_digits / "evaluation" / "metrics.json").read_text())["metrics"]
    temperature = metrics["validation"]["temperature"]
    names = [f"probability_{digit}" for digit in range(10)]
    plain, scaled = (
        np.array([[float(row[name]) for name in names] for row in read(path)])
        for path in ("plain.csv", "predictions.csv")
    )
    powers = plain ** (1 / temperature)
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), scaled, atol=1e-3)
    assert np.abs(plain - scaled).max() > 1e-3


def test_a_temperature_of_few_images_is_not_called_calibration(
    run: Callable, on_digits: Path, seal_again: Callable
) -> None:
    """The model card of the same run says it in the same words."""
    folder = shutil.copytree(on_digits, Path("few"))
    file = folder / "evaluation" / "metrics.json"
    held = json.loads(file.read_text())
    # As validation images that are all right leave it.
    doubt = fit_temperature(20.0 * torch.eye(9), torch.arange(9)).note
    file.write_text(json.dumps({**held, "notes": [doubt]}))
    seal_again(folder)
    Image.new("L", (16, 16), 100).save("one.png")
    answer = run("predict", folder, "one.png")
    assert "not known to be calibrated: temperature" in answer.out
    assert "the 9 validation images are classified too well" in doubt
    assert "stops at 0.1, the least that is tried" in doubt
    assert doubt in answer.err
    assert "too well" not in run("predict", folder, "one.png", "--uncalibrated").err
    assert run("export", folder, "--format", "huggingface", "--output", "exported").status == 0
    assert doubt in Path("exported/README.md").read_text()


def test_one_logit(run: Callable, draw_images: Callable, tiny: dict) -> None:
    draw_images(Path("images"), disc=20, square=20)
    folder = train(Path("run"), tiny, "--data", "folder:images", "--loading.cache", "cache", "--head.one-logit")
    assert run("predict", folder, "images").status == 0
    rows = read()
    of_test(folder, rows, prefix="images/")
    for row in rows:
        assert float(row["probability_disc"]) + float(row["probability_square"]) == pytest.approx(1.0, abs=2e-6)


def test_a_run_that_was_adapted_is_for_the_target(run: Callable, tiny: dict) -> None:
    """Its images are stored at 16 pixels, those of the source at 8; its temperature is the source's."""
    settings = (*tiny["convolutional"], "--image-size", 16, "--labels", 5, "--epochs", 1, "--head-steps", 4)
    pair = ("--source", "digits", "--target", "blended-digits", "--loading.cache", "cache")
    assert run("adapt", "adabn", *pair, *settings, "--finetune-steps", 8, "--output", "adapted").status == 0
    answer = run("predict", "adapted", "blended-digits", "--abstain-below", "0.1")
    assert answer.status == 0, answer.err
    of_test(Path("adapted"), read())
    assert "validation images of the source, not of the target" in answer.out
    assert "On validation, which is of the source," in answer.out


def test_a_run_of_an_earlier_version(run: Callable, on_digits: Path, unseal: Callable) -> None:
    """It did not keep how its images were stored, nor its predictions of validation."""
    folder = shutil.copytree(on_digits, Path("older"))
    description = json.loads((folder / "backbone" / "backbone.json").read_text())
    del description["images"], description["checksum"]
    (folder / "backbone" / "backbone.json").write_text(json.dumps(description))
    (folder / "evaluation" / "predictions_validation.csv").unlink()
    unseal(folder)
    answer = run("predict", folder, "digits", "--abstain-below", "0.5")
    assert answer.status == 0, answer.err
    assert "does not say how its images were stored; 8 bits and 18 pixels a side are taken" in answer.out
    assert "What that is worth is not known" in answer.out
    shutil.rmtree(folder / "evaluation")
    assert "the run has fitted no temperature" in run("predict", folder, "digits").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Which run, and which images?"),
        (("RUN",), "Which run, and which images?"),
        (("nowhere", "digits"), "nowhere: there is no such folder"),
        (("RUN/backbone", "digits"), "a backbone without a head"),
        (("RUN", "nothing.png"), "nothing.png: no such file or folder"),
        (("RUN", "empty"), "empty: no images in this folder"),
        (("RUN", "npz:none.npz"), "there is no such file"),
        (("RUN", "digits", "--abstain-below", "2"), "--abstain-below 2: a probability"),
        (("RUN", "digits", "--output", "empty"), "--output empty: is a folder"),
        (("RUN", "digits", "--output", "file/a.csv"), "--output file/a.csv: cannot be written"),
        (("RUN", "digits", "--value-range", "3", "1"), "two numbers, the smaller first"),
        (("RUN", "digits", "--workers", "0"), "--workers 0: at least 1"),
    ],
)
def test_mistakes(run: Callable, on_digits: Path, arguments: tuple, message: str) -> None:
    Path("empty").mkdir()
    Path("file").write_text("")
    answer = run("predict", *(argument.replace("RUN", str(on_digits)) for argument in arguments))
    assert answer.status == 2
    assert message in answer.err
