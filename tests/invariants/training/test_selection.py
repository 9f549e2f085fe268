"""The test images decide nothing: with their labels permuted, only the test metrics change."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_transfer.data.sources import Dataset, LoadingConfig, load
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.stages.transfer.config import TransferConfig
from ssl_transfer.stages.transfer.transfer import transfer


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", image_size=16, config=LoadingConfig())


def with_permuted_labels(dataset: Dataset, split: str) -> Dataset:
    """The same images; the labels of one split are each other's."""
    index = dataset.splits[split]
    labels = dataset.labels.clone()
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    labels[index] = labels[index][order]
    return dataclasses.replace(dataset, labels=labels)


def outcome(
    dataset: Dataset, folder: Path, runtime: Runtime, backbone: BackboneConfig, log_of: Callable, **settings: Any
) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """A transfer run's result without costs, its test metrics apart, and everything else that it wrote."""
    config = TransferConfig(
        image_size=16,
        labels="5",
        backbone=backbone,
        epochs=1,
        head_steps=20,
        finetune_steps=20,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        output=folder,
        **settings,
    )
    result = copy.deepcopy(transfer(config, runtime=runtime, dataset=dataset))
    for trial in result["tuned"]["trials"] if "tuned" in result else []:
        del trial["seconds"], trial["peak_memory_mb"], trial["energy_joules"]
    tested = {}
    for name, phase in result["phases"].items():
        del phase["seconds"], phase["peak_memory_mb"], phase["energy_joules"]
        tested[name] = phase.pop("test")
    log = [line for line in log_of(folder) if line.get("split") != "test"]
    files = [(folder / name / f"{name}.safetensors").read_bytes() for name in ("backbone", "head")]
    return result, tested, [log, *files]


@pytest.mark.parametrize("tune", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_permuted_test_labels_change_test_metrics_alone(
    tune: int, digits: Dataset, runtime: Runtime, convolutional: BackboneConfig, log_of: Callable, tmp_path: Path
) -> None:
    """Of a run that is tuned every trial and the choice among them are the same too."""
    plain, other = (
        outcome(images, tmp_path / name, runtime, convolutional, log_of, tune=tune)
        for name, images in (("plain", digits), ("permuted", with_permuted_labels(digits, "test")))
    )
    assert len(plain[0].get("tuned", {"trials": [None]})["trials"]) == tune
    assert plain[0] == other[0]
    assert plain[2] == other[2]
    assert len(plain[2][0]) > 4
    for phase in ("head", "finetune"):
        # Accuracy falls to chance.
        assert plain[1][phase]["accuracy"] > 0.25 > 0.17 > other[1][phase]["accuracy"]


def test_permuted_test_labels_do_not_change_the_choice_among_plans(
    digits: Dataset, runtime: Runtime, convolutional: BackboneConfig, log_of: Callable, tmp_path: Path
) -> None:
    plain, other = (
        outcome(images, tmp_path / name, runtime, convolutional, log_of, plans=("auto",))
        for name, images in (("plain", digits), ("permuted", with_permuted_labels(digits, "test")))
    )
    assert plain[0]["path"]
    assert len(plain[1]) == 5
    assert plain[0] == other[0]
    assert plain[2] == other[2]
    assert plain[1] != other[1]


def test_permuted_validation_labels_change_the_validation(
    digits: Dataset, runtime: Runtime, convolutional: BackboneConfig, log_of: Callable, tmp_path: Path
) -> None:
    """The test above can fail: what decides is validation."""
    plain = outcome(digits, tmp_path / "plain", runtime, convolutional, log_of)
    other = outcome(with_permuted_labels(digits, "validation"), tmp_path / "permuted", runtime, convolutional, log_of)
    assert plain[0]["phases"] != other[0]["phases"]
    assert plain[1] == other[1]


@pytest.mark.parametrize("tune", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_test_split_is_read_after_the_choice(
    tune: int,
    digits: Dataset,
    runtime: Runtime,
    convolutional: BackboneConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing of the test split is looked at before both phases of all trials are trained, then once for each phase."""
    from ssl_transfer.stages.transfer import feature_cache, phases

    events = []
    train, measure = phases.train, phases.over_images

    def traced_train(*arguments: Any, **settings: Any) -> Any:
        summary = train(*arguments, **settings)
        events.append(f"trained {settings['plan'].phase}")
        return summary

    def traced_measure(function: Any, dataset: Dataset, indices: torch.Tensor, *others: Any) -> Any:
        if bool(torch.isin(indices, dataset.splits["test"]).any()):
            events.append("read test")
        return measure(function, dataset, indices, *others)

    monkeypatch.setattr(phases, "train", traced_train)
    for module in (phases, feature_cache):
        monkeypatch.setattr(module, "over_images", traced_measure)
    config = TransferConfig(
        image_size=16,
        labels="1",
        backbone=convolutional,
        epochs=1,
        head_steps=2,
        finetune_steps=2,
        tune=tune,
        output=tmp_path,
    )
    transfer(config, runtime=runtime, dataset=digits)
    assert events == [*["trained head", "trained finetune"] * tune, "read test", "read test"]


def test_pretraining_sees_neither_labels_nor_the_other_splits(
    digits: Dataset, runtime: Runtime, flags: dict, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all labels permuted and all pixels outside the pool turned, the same backbone comes out."""
    from ssl_transfer.data import sources

    def changed(*arguments: Any, **settings: Any) -> Dataset:
        labels = digits.labels[torch.randperm(len(digits.labels), generator=torch.Generator().manual_seed(0))]
        pixels = digits.pixels.clone()
        for split in ("validation", "test"):
            pixels[digits.splits[split]] = 255 - pixels[digits.splits[split]]
        return dataclasses.replace(digits, labels=labels, pixels=pixels)

    command = ("pretrain", "simclr", "--image-size", 16, "--epochs", 1, *flags["convolutional"])
    assert run(*command, "--output", tmp_path / "plain") == 0
    monkeypatch.setattr(sources, "load", changed)
    assert run(*command, "--output", tmp_path / "changed") == 0
    files = [tmp_path / name / "backbone" / "backbone.safetensors" for name in ("plain", "changed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("plain", "changed")]
    assert results[0]["knn_accuracy"] != results[1]["knn_accuracy"]
