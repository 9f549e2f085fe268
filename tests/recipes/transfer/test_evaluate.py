"""Evaluate: a run's features and its own head, clean or corrupted images; nothing is chosen on the test split."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_transfer.data import sources
from ssl_transfer.stages.evaluate import EvaluateConfig, evaluate


@pytest.fixture(scope="module")
def transferred(tmp_path_factory: pytest.TempPathFactory, pretrained: Path, tiny: dict) -> Path:
    """A transfer run with its head. Read only."""
    from ssl_transfer.cli.main import main

    folder = tmp_path_factory.mktemp("transferred") / "run"
    flags = [*tiny["transfer"], "--labels", "20", "--head-steps", "20", "--finetune-steps", "80"]
    flags += ["--optimizer.learning-rate", "0.03", "--finetune-rate", "1"]
    main(["transfer", "--init", str(pretrained), *flags, "--output", str(folder)])
    return folder


def test_a_run_without_a_head(run: Callable, pretrained: Path) -> None:
    answer = run("evaluate", pretrained, "--split", "test", "--output", "out")
    assert answer.status == 0, answer.err
    assert f"{pretrained}: 450 images of test, digits" in answer.out
    found = json.loads(Path("out/evaluation.json").read_text())
    assert list(found["classifiers"]) == ["linear_probe"]
    accuracy = found["classifiers"]["linear_probe"]["accuracy"]
    assert re.search(rf"│ linear probe +│ +{accuracy:.1%} │", answer.out)
    assert accuracy > 0.3
    written = json.loads(Path("out/evaluation/metrics.json").read_text())
    assert written["metrics"]["test"]["accuracy"] == accuracy
    assert written["num_images"] == {"validation": 201, "test": 450}
    assert found["corruptions"] == []
    assert not Path("out/corruptions.csv").exists()


def test_the_head_gives_the_metrics_of_its_run(run: Callable, transferred: Path) -> None:
    answer = run("evaluate", transferred, "--split", "test", "--output", "out")
    assert answer.status == 0, answer.err
    assert "│ head" in answer.out
    found = json.loads(Path("out/evaluation.json").read_text())
    result = json.loads((transferred / "result.json").read_text())
    expected = result["phases"][result["chosen"]]["test"]
    for name in ("accuracy", "log_loss", "macro_f1", "calibration_error"):
        assert found["classifiers"]["head"][name] == pytest.approx(expected[name], abs=1e-5)
    # The files are about the head.
    written = json.loads(Path("out/evaluation/metrics.json").read_text())
    assert written["metrics"]["test"]["accuracy"] == found["classifiers"]["head"]["accuracy"]
    answer = run("evaluate", transferred / "backbone", "--split", "test")
    assert answer.status == 0, answer.err
    assert "│ head" not in answer.out


@pytest.mark.figures
def test_corruptions_as_rows_with_a_mean_and_a_picture(run: Callable, transferred: Path) -> None:
    answer = run("evaluate", transferred, "--corruptions", "--output", "out")
    assert answer.status == 0, answer.err
    with open("out/corruptions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (1 + 6 * 5)
    found = json.loads(Path("out/evaluation.json").read_text())
    for name in ("head", "linear_probe"):
        own = [row for row in rows if row["classifier"] == name and row["corruption"] != "none"]
        values = [float(row["accuracy"]) for row in own]
        assert len(values) == 30
        assert found["classifiers"][name]["corrupted_accuracy"] == pytest.approx(sum(values) / 30)
        assert found["classifiers"][name]["corrupted_accuracy"] < found["classifiers"][name]["accuracy"]
        assert Path(f"out/corruptions-{name}.png").read_bytes().startswith(b"\x89PNG")


def test_without_data_it_is_measured_on_its_own(
    run: Callable, tiny: dict, draw_images: Callable, unseal: Callable
) -> None:
    """Read and divided as the run did, but for what is asked otherwise."""
    draw_images(Path("images"), disc=20, square=20)
    read = ("--loading.channels", "grey", "--loading.split-seed", 3, "--loading.cache", "cache")
    flags = (*tiny["transfer"], *tiny["convolutional"], "--data", "folder:images", *read)
    assert run("transfer", "--init", "scratch", *flags, "--output", "run").status == 0
    answer = run("evaluate", "run", "--split", "test", "--output", "out", "--loading.cache", "another")
    assert answer.status == 0, answer.err
    found, result = (json.loads(Path(file).read_text()) for file in ("out/evaluation.json", "run/result.json"))
    expected = result["phases"][result["chosen"]]["test"]
    assert found["classifiers"]["head"]["log_loss"] == pytest.approx(expected["log_loss"], abs=1e-5)
    assert found["settings"]["data"] == "folder:images"
    assert found["settings"]["loading"]["cache"] == "another"
    assert f"run: {found['num_images']} images of test, folder:images" in answer.out
    (Path("run") / "config.yaml").unlink()
    unseal(Path("run"))
    assert (
        "run: does not say which images it was trained on, or streamed them. Give --data." in run("evaluate", "run").err
    )


def test_other_classes_are_named(run: Callable, transferred: Path, draw_images: Callable) -> None:
    draw_images(Path("images"), disc=20, square=20)
    flags = ("--data", "folder:images", "--loading.cache", "cache", "--loading.channels", "grey", "--image-size")
    answer = run("evaluate", transferred, *flags[:-1], "--loading.leakage", "allow")
    assert answer.status == 2
    assert "only the head knows 0, 1, 2, 3, 4 and 5 more" in answer.err
    assert "only the data has disc, square" in answer.err
    answer = run("evaluate", transferred / "backbone", *flags[:-1], "--loading.leakage", "allow")
    assert answer.status == 0, answer.err


def test_an_output_that_is_a_file_is_refused(run: Callable, pretrained: Path) -> None:
    Path("file").write_text("x")
    answer = run("evaluate", pretrained, "--output", "file")
    assert answer.status == 2
    assert "--output file: is not a folder" in answer.err


def changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[sources.Dataset], sources.Dataset]) -> None:
    load = sources.load
    monkeypatch.setattr(sources, "load", lambda *arguments, **settings: change(load(*arguments, **settings)))


def test_nothing_is_chosen_on_the_test_split(
    transferred: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def written(name: str) -> dict[str, Any]:
        return json.loads((tmp_path / name / "evaluation" / "metrics.json").read_text())["metrics"]

    def permuted(dataset: sources.Dataset) -> sources.Dataset:
        labels, index = dataset.labels.clone(), dataset.splits["test"]
        labels[index] = labels[index][torch.randperm(len(index), generator=torch.Generator().manual_seed(0))]
        return replace(dataset, labels=labels)

    def measured(name: str) -> dict[str, Any]:
        return evaluate(EvaluateConfig(path=str(transferred), split="test", output=tmp_path / name))

    plain = measured("plain")
    changed(monkeypatch, permuted)
    other = measured("other")
    assert plain["linear_probe"] == other["linear_probe"]
    assert written("plain")["validation"] == written("other")["validation"]
    assert written("plain")["test"]["temperature"] == written("other")["test"]["temperature"]
    for name in ("head", "linear_probe"):
        assert plain["classifiers"][name]["accuracy"] > 0.25 > other["classifiers"][name]["accuracy"]


def test_classes_in_another_order_are_the_same_classes(transferred: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EvaluateConfig(path=str(transferred), split="test")
    plain = evaluate(config)

    def reversed_classes(dataset: sources.Dataset) -> sources.Dataset:
        return replace(dataset, classes=dataset.classes[::-1], labels=9 - dataset.labels)

    changed(monkeypatch, reversed_classes)
    other = evaluate(config)
    assert other["classifiers"]["head"]["accuracy"] == plain["classifiers"]["head"]["accuracy"]
    assert other["knn_accuracy"] == pytest.approx(plain["knn_accuracy"], abs=0.01)
