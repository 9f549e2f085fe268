"""The transfer command with every plan, and with the settings that a phase may have."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from ssl_transfer.engine.io.json_files import read_lines

FEW = ("--epochs", 1, "--head-steps", 3, "--finetune-steps", 3, "--labels", 2, "--batch-size", 16)
PHASES = {
    ("feature-extraction",): ["head"],
    ("fine-tune",): ["head", "finetune"],
    ("partial", "last:1"): ["head", "finetune"],
    ("partial", "from:layer4.0.bn2"): ["head", "finetune"],
    ("gradual", "2"): ["head", "finetune-1", "finetune-2"],
    ("full",): ["finetune"],
    ("low-level", "2"): ["head"],
    ("surgical",): ["head", "finetune"],
    ("head rate=0.02 epochs=4", "last:1", "all decay=0.5"): ["head", "finetune-1", "finetune-2"],
}


def moved(folder: Path, start: Path) -> set[str]:
    """The tensors of the backbone that the run changed, by the phase that trained last."""
    before = load_file(start / "backbone" / "backbone.safetensors")
    state = torch.load(next((folder / "checkpoints").glob("finetune*.pt")), weights_only=True)["objective"]
    return {name for name, value in before.items() if not torch.equal(state[f"backbone.model.{name}"], value)}


@pytest.mark.parametrize("plan", PHASES)
def test_every_plan_runs(plan: tuple[str, ...], run: Callable, pretrained: Path) -> None:
    answer = run("transfer", "--init", pretrained, *FEW, "--output", "run", "--plan", *plan)
    assert answer.status == 0, answer.err
    result = json.loads(Path("run/result.json").read_text())
    assert list(result["phases"]) == PHASES[plan]
    assert yaml.safe_load(Path("run/config.yaml").read_text())["plan"] == list(plan)


def test_partial_moves_what_comes_after_and_surgical_what_comes_first(run: Callable, pretrained: Path) -> None:
    for name, plan in (("behind", ("partial", "last:1")), ("first", ("surgical", "first:1"))):
        assert run("transfer", "--init", pretrained, *FEW, "--output", name, "--plan", *plan).status == 0
    behind, first = moved(Path("behind"), pretrained), moved(Path("first"), pretrained)
    assert {name.split(".")[0] for name in behind} == {"layer4"}
    assert not any(name.startswith("layer") for name in first)
    assert any(name.endswith("running_mean") for name in behind)
    assert first


def test_low_level_exports_the_blocks_that_it_keeps(run: Callable, pretrained: Path) -> None:
    assert run("transfer", "--init", pretrained, *FEW, "--output", "run", "--plan", "low-level", "2").status == 0
    kept = load_file("run/backbone/backbone.safetensors")
    whole = load_file(pretrained / "backbone" / "backbone.safetensors")
    assert 0 < len(kept) < len(whole)
    assert all(torch.equal(value, whole[name]) for name, value in kept.items())
    answer = run("evaluate", "run")
    assert answer.status == 0, answer.err
    assert "│ head " in answer.out


SETTINGS = {
    "hidden head": ("--head.kind", "hidden", "--head.dropout", 0.2),
    "flattened map": ("--head.kind", "flatten-256"),
    "attention": ("--head.pooling", "attention"),
    "mixup and cutmix": ("--mixup", 0.4, "--cutmix", 1.0),
    "weights": ("--imbalance", "weights"),
    "sampling": ("--imbalance", "sampling"),
    "plateau": ("--optimizer.schedule", "plateau"),
    "stopping": ("--stopping.patience", 1),
    "average": ("--optimizer.ema-decay", 0.9),
    "micro-batches": ("--optimizer.accumulate", 2),
    "clipping": ("--optimizer.clip-norm", 1),
    "frozen statistics": ("--batch-norm", "frozen"),
    "features once": ("--frozen-views", 2),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_runs_and_its_head_is_read_again(name: str, run: Callable, pretrained: Path) -> None:
    answer = run("transfer", "--init", pretrained, *FEW, "--output", "run", *SETTINGS[name])
    assert answer.status == 0, answer.err
    tested = json.loads(Path("run/result.json").read_text())
    answer = run("evaluate", "run", "--split", "test", "--output", "evaluation")
    assert answer.status == 0, answer.err
    head = json.loads(Path("evaluation/evaluation.json").read_text())["classifiers"]["head"]
    assert head["accuracy"] == tested["phases"][tested["chosen"]]["test"]["accuracy"]


def test_one_logit_for_two_classes(run: Callable, draw_images: Callable, tiny: dict) -> None:
    draw_images(Path("images"), disc=20, square=20)
    data = ("--data", "folder:images", "--loading.cache", "cache", "--image-size", 16)
    flags = (*data, *FEW, *tiny["convolutional"], "--head.one-logit", "--output", "run")
    answer = run("transfer", *flags)
    assert answer.status == 0, answer.err
    assert load_file("run/head/head.safetensors")["layers.0.weight"].shape[0] == 1
    assert run("evaluate", "run", *data[:4]).status == 0


@pytest.mark.figures
def test_the_chosen_model_is_written_up(run: Callable, pretrained: Path) -> None:
    assert run("transfer", "--init", pretrained, *FEW, "--output", "run").status == 0
    result = json.loads(Path("run/result.json").read_text())
    chosen = result["phases"][result["chosen"]]
    found = json.loads(Path("run/evaluation/metrics.json").read_text())["metrics"]
    assert found["test"]["accuracy"] == chosen["test"]["accuracy"]
    assert found["validation"]["accuracy"] == chosen["validation"]["accuracy"]
    with open("run/evaluation/predictions.csv", newline="") as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == 450
    right = np.mean([line["label"] == line["predicted"] for line in predictions])
    assert right == pytest.approx(chosen["test"]["accuracy"])
    for picture in ("confusion", "reliability", "curves"):
        with Image.open(f"run/evaluation/{picture}.png") as image:
            assert min(image.size) > 200


def test_what_the_weights_know_before_any_training_is_logged_once(run: Callable, pretrained: Path) -> None:
    command = ("transfer", "--init", pretrained, *FEW, "--output", "run")
    assert run(*command).status == 0
    Path("run/result.json").unlink()
    assert run(*command).status == 0
    lines = read_lines(Path("run/metrics.jsonl"))
    starts = [line for line in lines if line.get("step") == 0]
    assert [(line["phase"], line["split"]) for line in starts] == [("head", "validation")]
    assert 0.0 <= starts[0]["knn_accuracy"] <= 1.0


@pytest.mark.figures
def test_the_learning_rate_finder(run: Callable, pretrained: Path) -> None:
    flags = ("--init", pretrained, "--labels", 20, "--frozen-views", 1, "--find-rate")
    answer = run("transfer", *flags, "--output", "run")
    assert answer.status == 0, answer.err
    assert "learning rate" in answer.out
    assert not Path("run").exists()
    with open("run-rates/learning_rates.csv", newline="") as file:
        rates = [float(line["learning_rate"]) for line in csv.DictReader(file)]
    assert rates == sorted(rates)
    assert len(rates) > 10
    with Image.open("run-rates/learning_rates.png") as image:
        assert image.width > 400


def test_a_tiny_batch_with_statistics_is_warned_of(run: Callable, pretrained: Path) -> None:
    flags = ("transfer", "--init", pretrained, *FEW, "--labels", 1)
    assert "BatchNorm layers take their statistics from batches of 10 images" in run(*flags, "--output", "a").out
    assert "BatchNorm layers take" not in run(*flags, "--batch-norm", "frozen", "--output", "b").out
    assert "BatchNorm layers take" not in run(*flags, "--plan", "feature-extraction", "--output", "c").out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--plan", "partial", "from:layer9"), ("from:layer9", "Did you mean layer")),
        (("--plan", "partial", "last:99"), ("has", "blocks")),
        (("--plan", "fine-tuning"), ("fine-tuning", "Did you mean fine-tune")),
        (("--plan", "head", "all rate=0.5"), ("above the head's", "all rate=0.001")),
        (("--plan", "head rate=1e-4", "all"), ("above the head's 0.0001",)),
        (("--plan", "partial", "first:1"), ("last:N or from:NAME",)),
        (("--plan", "surgical", "last:1"), ("first:N",)),
        (("--plan", "full", "--frozen-views", "2"), ("frozen_views 2 would be ignored",)),
        (("--plan", "feature-extraction", "--batch-norm", "frozen"), ("batch_norm frozen would be ignored",)),
        (("--head.kind", "hidden", "--batch-size", "1"), ("head.kind hidden", "larger batches")),
        (("--mixup", "nan"), ("mixup nan",)),
        (("--plan", ""), ("trains nothing",)),
        (("--plan", "low-level", "99"), ("first 99 blocks",)),
        (("--head.pooling", "token"), ("no class token",)),
        (("--head.one-logit",), ("these are 10",)),
        (("--head.dropout", "1"), ("head.dropout 1",)),
        (("--mixup", "0.2", "--frozen-views", "0"), ("give one",)),
        (("--mixup", "0.2", "--optimizer.accumulate", "2"), ("accumulate 2", "mixup")),
        (("--optimizer.plateau-factor", "0.5"), ("plateau",)),
    ],
)
def test_mistakes_end_before_anything_is_trained(
    flags: tuple, expected: tuple, run: Callable, pretrained: Path
) -> None:
    answer = run("transfer", "--init", pretrained, "--output", "run", *flags)
    assert answer.status == 2, answer.out
    assert [part for part in expected if part not in " ".join(answer.err.split())] == [], answer.err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--transfer.plan", "partial", "from:layer9"), "from:layer9"),
        (("--transfer.plan", "low-level", "99"), "first 99 blocks"),
        (("--transfer.head.one-logit",), "these are 10"),
        (("--transfer.head.pooling", "token"), "no class token"),
    ],
)
def test_compare_finds_what_does_not_fit_before_it_trains(
    flags: tuple, expected: str, run: Callable, tiny: dict
) -> None:
    command = ("compare", *tiny["compare"], *tiny["convolutional"], "--arms", "autoencoder", "--output", "run")
    answer = run(*command, *flags)
    assert answer.status == 2
    assert expected in answer.err
    assert not Path("run").exists()


def test_evaluation_does_not_write_into_a_run(run: Callable, pretrained: Path) -> None:
    answer = run("evaluate", pretrained, "--output", pretrained)
    assert answer.status == 2
    assert "holds a run" in answer.err


def test_the_curve_of_a_stopped_phase_ends_with_the_weights_that_it_leaves(run: Callable, pretrained: Path) -> None:
    flags = ("--epochs", 12, "--stopping.patience", 2, "--optimizer.learning-rate", 0.3, "--labels", 5)
    flags += ("--head-steps", 1, "--finetune-steps", 1, "--optimizer.warmup-steps", 0)
    assert run("transfer", "--init", pretrained, *flags, "--output", "run").status == 0
    result = json.loads(Path("run/result.json").read_text())
    lines = read_lines(Path("run/metrics.jsonl"))
    assert any(line["split"] == "stopping" and line["stopped_early"] for line in lines)
    for name, phase in result["phases"].items():
        last = [line for line in lines if (line["phase"], line["split"]) == (name, "validation")][-1]
        assert last["log_loss"] == pytest.approx(phase["validation"]["log_loss"], rel=1e-6)
