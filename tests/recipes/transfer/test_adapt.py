"""`ssl-transfer adapt`: what it leaves, what goes on with it, and what it refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.runs.seal import held_result
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.stages.adapt import adapt as stage
from ssl_transfer.stages.adapt.config import AdaptConfig

RECIPE = Path(__file__).parents[3] / "recipes" / "adapt.py"
FEW = ("--image-size", 16, "--labels", 5, "--batch-size", 32, "--epochs", 1, "--head-steps", 4, "--finetune-steps", 8)


def write(path: Path, *, parts: dict[str, slice], channels: int = 1, classes: tuple[str, ...] = ()) -> str:
    """Digits in other grey values; `parts` says which of them are in which part."""
    bunch = load_digits()
    images = 255 - np.round(bunch.images * (255 / 32)).astype(np.uint8)
    if channels > 1:
        images = np.repeat(images[..., None], channels, axis=3)
    names = np.array(classes or [str(digit) for digit in range(10)])
    arrays = {}
    for part, where in parts.items():
        arrays[f"x_{part}"] = images[where]
        if part != "unlabeled":
            arrays[f"y_{part}"] = names[bunch.target[where]]
    np.savez(path, **arrays)
    return f"npz:{path}"


ALL = {"train": slice(0, 200), "val": slice(200, 260), "test": slice(260, 360)}


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("target") / "inverted.npz", parts=ALL)


@pytest.fixture
def adapt(run: Callable, tiny: dict, target: str) -> Callable:
    def call(name: str, *arguments: object, target: str = target) -> object:
        return run("adapt", name, "--target", target, *FEW, *tiny["convolutional"], *arguments)

    return call


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_every_method_leaves_a_run(name: str, adapt: Callable, tmp_path: Path) -> None:
    answer = adapt(name, "--output", tmp_path / "run")
    assert answer.status == 0, answer.err
    assert "is it working?" in answer.out
    assert re.search(r"A-distance \d\.\d\d before, \d\.\d\d after \(lower after: closer;", answer.out)
    assert "target test" in answer.out
    assert ("% (near 50 %: it cannot tell the domains apart)" in answer.out) == (name in ("dann", "cdan"))
    assert ("was not adapted" in answer.out) == (
        json.loads((tmp_path / "run" / "result.json").read_text())["chosen"] == "head"
        and ADAPTATIONS[name].term is not None
    )
    assert ("upper bound" in answer.out) == (name == "target")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["method"] == name
    assert result["uses_target_labels"] == (name == "target")
    assert {"source", "information", "density", "importance"} == result["criteria"].keys()
    assert (result["num_train"], result["num_validation"]) == (50, 49 if name == "target" else 50)
    assert (result["num_target"], result["num_held"]) == (200, 60)
    assert 0.0 <= result["target_test"]["accuracy"] <= 1.0
    assert {"a_distance", "information", "density"} <= result["before"].keys() & result["after"].keys()
    for file in ("config.yaml", "environment.json", "metrics.jsonl", "predicted.npy"):
        assert (tmp_path / "run" / file).is_file()
    for file in ("backbone/backbone.safetensors", "backbone/seen.npy", "head/head.json", "evaluation/metrics.json"):
        assert (tmp_path / "run" / file).is_file()


@pytest.mark.parametrize(
    "words", [pytest.param(("adabn",), marks=pytest.mark.slow), ("dann", "--domain-norm", "separate")]
)
def test_its_checkpoint_goes_through_evaluate_and_transfer(
    words: tuple[str, ...], adapt: Callable, run: Callable, target: str, tmp_path: Path
) -> None:
    """The exported model is the one that was tested: the same accuracy, with the target's statistics of BatchNorm."""
    folder, written = tmp_path / "adapted", tmp_path / "evaluated"
    assert adapt(*words, "--output", folder).status == 0
    tested = json.loads((folder / "result.json").read_text())["target_test"]["accuracy"]
    answer = run("evaluate", folder, "--data", target, "--split", "test", "--output", written)
    assert answer.status == 0, answer.err
    found = json.loads((written / "evaluation.json").read_text())
    assert found["classifiers"]["head"]["accuracy"] == pytest.approx(tested)
    few = ("--labels", 2, "--epochs", 1, "--head-steps", 4, "--finetune-steps", 4)
    assert run("transfer", "--init", folder, "--data", target, *few).status == 0


def test_it_starts_from_a_pretrained_run(adapt: Callable, run: Callable, pretrained: Path, target: str) -> None:
    answer = run("adapt", "mmd", "--init", pretrained, "--target", target, *FEW[2:], "--plan", "partial", "last:1")
    assert answer.status == 0, answer.err
    assert "from" in answer.out


def test_started_again_it_does_nothing_and_from_its_config_the_same(
    adapt: Callable, run: Callable, tmp_path: Path
) -> None:
    first = adapt("coral", "--oracle", "--output", tmp_path / "run")
    assert "upper bound: the candidate" in first.out
    again = adapt("coral", "--oracle", "--output", tmp_path / "run")
    assert again.status == 0
    assert "finished before" in again.out
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["method"] == {"name": "coral", "weight": 1.0}
    answer = run("adapt", "--config", tmp_path / "run" / "config.yaml", "--output", tmp_path / "other")
    assert answer.status == 0, answer.err
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("run", "other")]
    assert results[0]["target_test"] == results[1]["target_test"]
    assert results[0]["oracle"] == results[1]["oracle"]
    changed = adapt("coral", "--output", tmp_path / "run")
    assert changed.status == 2
    assert "oracle was True and is now False" in changed.err


def test_one_of_many_that_has_finished_builds_nothing(
    adapt: Callable, target: str, tiny: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert adapt("coral", "--output", tmp_path / "run").status == 0
    kind, default = AdaptConfig[ADAPTATIONS["coral"].config], AdaptConfig(method=ADAPTATIONS["coral"].config())
    flags = [str(word) for word in ("--target", target, *FEW, *tiny["convolutional"], "--output", tmp_path / "run")]
    config = configuration.parse(kind, {}, flags, program="adapt", default=default)
    monkeypatch.setattr(stage, "initial_backbone", None)
    assert stage.adapt(config, quiet=True) == held_result(tmp_path / "run")


def test_grey_against_colour_and_a_target_without_any_label(adapt: Callable, run: Callable, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.npz", parts={"unlabeled": slice(0, 120)}, channels=3)
    answer = adapt("dann", "--output", tmp_path / "run", target=bare)
    assert answer.status == 0, answer.err
    assert "grey, repeated to 3 channels" in answer.out
    assert "no labelled test images" in answer.out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["target_test"] is None
    assert result["num_target"] + result["num_held"] == 120
    answer = run("evaluate", tmp_path / "run")
    assert answer.status == 2
    assert f"--data {bare}: has no labelled images for train and validation. Give data that has." in answer.err


def test_a_target_with_labels_for_its_test_alone(adapt: Callable, tmp_path: Path) -> None:
    """Adapt to a target with labels for its test images alone."""
    tested = write(tmp_path / "tested.npz", parts={"unlabeled": slice(0, 120), "test": slice(260, 360)})
    answer = adapt("mmd", "--output", tmp_path / "run", target=tested)
    assert answer.status == 0, answer.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["target_test"]["accuracy"] >= 0.0
    assert result["num_target"] + result["num_held"] == 120


REFUSED = {
    "no method": (("",), "which method?"),
    "another method": (("dan",), "did you mean"),
    "no target": (("dann", "--target", ""), "which target?"),
    "head alone": (("dann", "--plan", "feature-extraction"), "would do nothing"),
    "norm of one domain": (("source-only", "--domain-norm", "separate"), "would be ignored"),
    "norm twice": (("dann", "--domain-norm", "separate", "--batch-norm", "frozen"), "would be ignored"),
    "micro-batches": (("mmd", "--optimizer.accumulate", 2), "compares the images of a batch"),
    "views of one domain": (("mmd", "--plan", "partial", "last:1", "--frozen-views", 2), "sees both domains"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_ignored_is_refused(case: str, adapt: Callable, run: Callable) -> None:
    (name, *arguments), message = REFUSED[case]
    answer = adapt(name, *arguments) if name else run("adapt")
    assert answer.status == 2
    assert message.lower() in answer.err.lower()


def test_backbones_without_batch_norm_are_refused(run: Callable, tiny: dict, target: str) -> None:
    command = ("--target", target, *FEW, *tiny["transformer"])
    for words in (("adabn",), ("dann", "--domain-norm", "separate")):
        answer = run("adapt", *words, *command)
        assert answer.status == 2
        assert "has no BatchNorm" in answer.err
        assert "vit_tiny_patch16_224" in answer.err


def test_domains_that_do_not_fit_are_refused_with_names(adapt: Callable, tmp_path: Path) -> None:
    animals = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibex", "jay")
    cases = {
        write(tmp_path / "animals.npz", parts=ALL, classes=animals): ("labels do not match", "ant, bee"),
        write(tmp_path / "few.npz", parts={"unlabeled": slice(0, 3)}): ("too few images to adapt on", "3 unlabeled"),
    }
    for data, words in cases.items():
        answer = adapt("dann", target=data)
        assert answer.status == 2
        assert all(word in answer.err for word in words), answer.err
    answer = adapt("source-only", "--source", write(tmp_path / "bare.npz", parts={"unlabeled": slice(0, 100)}))
    assert answer.status == 2
    assert "has no labels" in answer.err
    partly = {"unlabeled": slice(0, 100), "val": slice(200, 260), "test": slice(260, 360)}
    answer = adapt("target", target=write(tmp_path / "partly.npz", parts=partly))
    assert answer.status == 2
    assert "no labelled train images" in answer.err
    bare = write(tmp_path / "pool.npz", parts={"unlabeled": slice(0, 120)})
    answer = adapt("dann", "--oracle", target=bare)
    assert answer.status == 2
    assert "--oracle" in answer.err


def test_test_images_that_the_source_trains_on_are_refused(adapt: Callable, target: str, tmp_path: Path) -> None:
    parts = {"train": slice(200, 340), "val": slice(0, 60), "test": slice(360, 400)}
    source = write(tmp_path / "overlapping.npz", parts=parts)
    answer = adapt("source-only", "--source", source)
    assert answer.status == 2
    assert "80 test images" in answer.err
    assert "(for example test[260])" in " ".join(answer.err.split())
    answer = adapt("source-only", "--source", source, "--loading.leakage", "drop", "--output", tmp_path / "run")
    assert answer.status == 0, answer.err
    assert "left out (--loading.leakage drop)" in answer.out


def test_the_recipe_is_the_command() -> None:
    text = RECIPE.read_text(encoding="utf-8")
    assert 'main(["adapt", *sys.argv[1:]])' in text


def test_the_choice_is_the_candidate_whose_weights_were_kept(adapt: Callable, tmp_path: Path) -> None:
    """With `min_delta` a little better is no better, for the weights and for what is said of them."""
    few = ("--plan", "full", "--finetune-steps", 60, "--optimizer.learning-rate", "1e-2", "--finetune-rate", 1)
    answer = adapt("dann", *few, "--stopping.patience", 50, "--stopping.min-delta", 0.3, "--output", tmp_path / "run")
    assert answer.status == 0, answer.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    (stopping,) = (line for line in lines if line["split"] == "stopping")
    assert result["epoch"] == stopping["best_epoch"]
    (own,) = (
        line
        for line in lines[: lines.index(stopping)]
        if line["split"] == "validation" and line["epoch"] == result["epoch"]
    )
    assert own["accuracy"] == pytest.approx(result["source_validation"]["accuracy"])
    # Another one was better by less.
    assert result["criteria"]["source"]["value"] < own["log_loss"]


def test_what_the_start_has_seen_is_not_used_for_choosing(
    run: Callable, adapt: Callable, target: str, tmp_path: Path
) -> None:
    """Images that are left out are left out of the criteria too."""
    other = write(tmp_path / "other.npz", parts={"train": slice(230, 360), "val": slice(0, 60), "test": slice(60, 100)})
    start, folder = tmp_path / "start", tmp_path / "run"
    assert adapt("target", "--source", other, "--labels", "all", "--output", start, target=other).status == 0
    flags = (*FEW, "--init", start, "--loading.leakage", "drop", "--output", folder)
    answer = run("adapt", "source-only", "--target", target, *flags)
    assert answer.status == 0, answer.err
    assert "left out (--loading.leakage drop)" in answer.out
    # Validation has 60 images, 200 to 259, of which the start was trained on the last 30.
    assert json.loads((folder / "result.json").read_text())["num_held"] == 30
