"""The files of an evaluation: their numbers are those of the predictions."""

import csv
import json

import pytest
import torch
from PIL import Image

from ssl_transfer.engine.errors import InputError
from ssl_transfer.evaluation.predictions import calibration, metrics
from ssl_transfer.reports import evaluation

PICTURES = {"confusion.png", "reliability.png"}
FILES = {"metrics.json", "per_class.csv", "predictions.csv", "predictions_validation.csv"} | PICTURES


def predictions(count: int, num_classes: int, *, seed: int, single: bool = False) -> evaluation.Predictions:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (count,), generator=generator)
    logits = 3.0 * torch.randn(count, num_classes, generator=generator)
    logits[torch.arange(count), labels] += 2.0
    logits = logits[:, 1:] - logits[:, :1] if single else logits
    return evaluation.Predictions(logits=logits, labels=labels, names=[f"{seed}/{i},x.png" for i in range(count)])


def read(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("num_classes", "single"), [(2, True), (2, False), (7, False), (100, False)])
def test_all_files_are_there(tmp_path, num_classes, single):
    classes = [f"a class with a long name and $money$ {number}" for number in range(num_classes)]
    splits = enumerate(("validation", "test"))
    held = {name: predictions(120, num_classes, seed=seed, single=single) for seed, name in splits}
    evaluation.write(tmp_path, classes, held)
    folder = tmp_path / "evaluation"
    assert {path.name for path in folder.iterdir()} == FILES
    for name in sorted(PICTURES):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 300
    assert [row["class"] for row in read(folder / "per_class.csv")] == classes


def test_the_numbers_are_those_of_the_split(tmp_path):
    held = {"validation": predictions(200, 6, seed=0), "test": predictions(100, 6, seed=1)}
    found = evaluation.write(tmp_path, "abcdef", held)
    temperature = calibration.fit_temperature(held["validation"].logits, held["validation"].labels)
    assert temperature.value > 1.2
    for name, one in held.items():
        expected = metrics.classification(one.logits, one.labels)
        assert found[name] == {**expected, **calibration.scaled(one.logits, one.labels, temperature)}
    written = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert written["metrics"] == found
    assert written["num_images"] == {"validation": 200, "test": 100}
    lines = read(tmp_path / "evaluation" / "predictions.csv")
    assert [line["name"] for line in lines] == list(held["test"].names)
    kept = read(tmp_path / "evaluation" / "predictions_validation.csv")
    assert [line["name"] for line in kept] == list(held["validation"].names)
    right = sum(line["label"] == line["predicted"] for line in lines) / len(lines)
    assert right == pytest.approx(found["test"]["accuracy"])
    sure = torch.softmax(held["test"].logits, dim=1).amax(dim=1)
    assert [float(line["confidence"]) for line in lines] == pytest.approx(sure.tolist(), abs=1e-6)
    scaled = torch.softmax(held["test"].logits / temperature.value, dim=1).amax(dim=1)
    assert [float(line["confidence_scaled"]) for line in lines] == pytest.approx(scaled.tolist(), abs=1e-6)


def test_the_temperature_does_not_see_the_test_labels(tmp_path):
    held = {"validation": predictions(200, 6, seed=0), "test": predictions(100, 6, seed=1)}
    test = held["test"]
    other = evaluation.Predictions(logits=test.logits, labels=(test.labels + 1) % 6, names=test.names)
    first = evaluation.write(tmp_path, "abcdef", held)
    second = evaluation.write(tmp_path, "abcdef", {**held, "test": other})
    assert first["test"]["temperature"] == second["test"]["temperature"]
    assert first["validation"] == second["validation"]
    assert first["test"]["accuracy"] != second["test"]["accuracy"]


def test_a_class_without_images_leaves_its_cells_empty(tmp_path):
    held = predictions(100, 4, seed=0)
    kept = held.labels != 2
    names = [held.names[index] for index in kept.nonzero()[:, 0].tolist()]
    part = evaluation.Predictions(logits=held.logits[kept], labels=held.labels[kept], names=names)
    evaluation.write(tmp_path, "abcd", {"validation": held, "test": part})
    row = read(tmp_path / "evaluation" / "per_class.csv")[2]
    assert (row["support"], row["recall"], row["f1"]) == ("0", "", "")


def test_validation_by_itself_says_what_its_temperature_is_worth(tmp_path):
    evaluation.write(tmp_path, "abcd", {"validation": predictions(100, 4, seed=0)}, split="validation")
    notes = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["notes"]
    assert any("fitted on" in note for note in notes)


def test_validation_is_needed(tmp_path):
    with pytest.raises(InputError, match="validation and test are needed"):
        evaluation.write(tmp_path, "abcd", {"test": predictions(10, 4, seed=0)})


def test_infinite_numbers_are_null(tmp_path):
    evaluation.write_json(tmp_path / "a.json", {"a": float("inf"), "b": [1.0, float("nan")], "c": "x"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1.0, None], "c": "x"}
