"""Adaptation: labels of the target decide nothing, a resumed run equals an uninterrupted one, two processes are one."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_transfer.data.sources import Dataset, LoadingConfig, load
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.checkpointing import State
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.objectives.domain_adaptation import Adapting
from ssl_transfer.stages.adapt.adapt import adapt
from ssl_transfer.stages.adapt.config import AdaptConfig
from ssl_transfer.stages.adapt.domain_training import CRITERIA

STOPPED = 130


@pytest.fixture(scope="module")
def pair() -> tuple[Dataset, Dataset]:
    """The digits, and a part of them in other grey values."""
    source = load("digits", image_size=16, config=LoadingConfig())
    kept = {name: index[: len(index) // 4] for name, index in source.splits.items()}
    target = dataclasses.replace(
        source, pixels=255 - source.pixels // 2, splits=kept, fingerprint="inverted", source="inverted", moments=None
    )
    return source, target


@pytest.fixture(scope="module")
def npz(pair: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same target as a file."""
    import numpy as np

    target, path = pair[1], tmp_path_factory.mktemp("target") / "inverted.npz"
    arrays = {}
    for part, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        index = target.splits[part]
        arrays |= {f"x_{name}": target.pixels[index][:, 0].numpy(), f"y_{name}": target.labels[index].numpy()}
    np.savez(path, **arrays)
    return path


def permuted(dataset: Dataset) -> Dataset:
    labels = dataset.labels[torch.randperm(len(dataset.labels), generator=torch.Generator().manual_seed(0))]
    return dataclasses.replace(dataset, labels=labels)


def outcome(
    name: str,
    pair: tuple[Dataset, Dataset],
    folder: Path,
    runtime: Runtime,
    backbone: BackboneConfig,
    log_of: Callable,
    **settings: Any,
) -> tuple[dict[str, Any], list[Any]]:
    """The result without costs, and everything that was written beside it but what concerns the test images."""
    config = AdaptConfig(
        method=ADAPTATIONS[name].config(),
        source="source",
        target="target",
        image_size=16,
        labels="5",
        backbone=backbone,
        epochs=1,
        head_steps=10,
        finetune_steps=30,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        output=folder,
        **settings,
    )
    result = adapt(config, runtime=runtime, source=pair[0], target=pair[1], quiet=True)
    result = json.loads(json.dumps(result))
    for place in (result, *result["phases"].values()):
        for cost in ("seconds", "peak_memory_mb", "energy_joules"):
            place.pop(cost, None)
    result["training"].pop("images_per_second")
    log = [line for line in log_of(folder) if line["split"] != "test"]
    files = [(folder / part / f"{part}.safetensors").read_bytes() for part in ("backbone", "head")]
    return result, [log, *files]


@pytest.mark.parametrize(
    ("name", "choose"),
    [
        *(pytest.param("dann", one, marks=[] if one == "importance" else pytest.mark.slow) for one in CRITERIA),
        pytest.param("source-only", "density", marks=pytest.mark.slow),
        pytest.param("adabn", "information", marks=pytest.mark.slow),
        ("self-training", "information"),
    ],
)
def test_permuted_labels_of_the_target_change_nothing_but_its_test(
    name: str,
    choose: str,
    pair: tuple,
    runtime: Runtime,
    convolutional: BackboneConfig,
    log_of: Callable,
    tmp_path: Path,
) -> None:
    found = []
    for place, images in (("plain", pair[1]), ("permuted", permuted(pair[1]))):
        made = outcome(name, (pair[0], images), tmp_path / place, runtime, convolutional, log_of, choose=choose)
        tested = made[0].pop("target_test")
        found.append((tested, made))
    assert found[0][1] == found[1][1]
    assert found[0][0] != found[1][0]
    assert len(found[0][1][1][0]) >= 4


@pytest.mark.parametrize("name", ["target", "dann"])
def test_the_oracle_and_the_upper_bound_do_see_them(
    name: str, pair: tuple, runtime: Runtime, convolutional: BackboneConfig, log_of: Callable, tmp_path: Path
) -> None:
    """The test above can fail."""
    settings = {"oracle": True} if name == "dann" else {}
    found = [
        outcome(name, (pair[0], images), tmp_path / place, runtime, convolutional, log_of, **settings)
        for place, images in (("plain", pair[1]), ("permuted", permuted(pair[1])))
    ]
    if name == "target":
        assert found[0][0]["uses_target_labels"]
        assert found[0][1][1:] != found[1][1][1:]
    else:
        assert found[0][0]["oracle"]["upper_bound"]
        seen = [[line.get("target_accuracy") for line in one[1][0]] for one in found]
        assert seen[0] != seen[1]
        # It is kept beside the choice and changes nothing of it.
        plain = outcome(name, pair, tmp_path / "without", runtime, convolutional, log_of)
        assert plain[1][1:] == found[0][1][1:]
        assert "oracle" not in plain[0]
        assert "target_accuracy" not in plain[0]["after"]


def test_the_test_images_are_read_once_after_the_choice(
    pair: tuple,
    runtime: Runtime,
    convolutional: BackboneConfig,
    tmp_path: Path,
    log_of: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ssl_transfer.stages.adapt import domain_training
    from ssl_transfer.stages.transfer import phases

    events, train, measure = [], phases.train, domain_training.over_images

    def traced_train(*arguments: Any, **settings: Any) -> Any:
        summary = train(*arguments, **settings)
        events.append(f"trained {settings['plan'].phase}")
        return summary

    def traced_measure(function: Any, dataset: Dataset, indices: torch.Tensor, *others: Any) -> Any:
        if dataset.source == "inverted" and bool(torch.isin(indices, dataset.splits["test"]).any()):
            events.append("read test")
        return measure(function, dataset, indices, *others)

    monkeypatch.setattr(phases, "train", traced_train)
    monkeypatch.setattr(domain_training, "over_images", traced_measure)
    outcome("coral", pair, tmp_path, runtime, convolutional, log_of)
    assert events == ["trained head", "trained finetune", "read test"]


@pytest.mark.parametrize(
    ("name", "more", "stop"),
    [
        pytest.param("dann", ("--oracle", "--optimizer.ema-decay", 0.9), 3, marks=pytest.mark.slow),
        ("dann", ("--oracle", "--optimizer.ema-decay", 0.9), 40),
        ("cdan", ("--domain-norm", "separate", "--choose", "density"), 40),
        pytest.param(
            "self-training", ("--method.confidence", 0.2, "--stopping.patience", 2), 40, marks=pytest.mark.slow
        ),
        pytest.param("adabn", ("--choose", "information"), 30, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_one_that_never_stopped(
    name: str,
    more: tuple,
    stop: int,
    npz: Path,
    run: Callable,
    flags: dict,
    log_of: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights, reversal, teacher, statistics of the target, the best candidates so far: all bits are the same."""
    command = (
        *("adapt", name, "--target", f"npz:{npz}", "--image-size", 16, "--labels", 5, "--batch-size", 32),
        *("--epochs", 1, "--head-steps", 6, "--finetune-steps", 50, *flags["convolutional"], *more),
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(*command, "--output", whole) == 0
    steps = 0
    plain = Adapting.after_step

    def interrupted(self: Adapting, progress: float) -> None:
        nonlocal steps
        steps += 1
        if steps == stop:
            raise KeyboardInterrupt
        plain(self, progress)

    with monkeypatch.context() as patched:
        patched.setattr(State, "due", True)
        patched.setattr(Adapting, "after_step", interrupted)
        assert run(*command, "--output", stopped) == STOPPED
    assert not (stopped / "result.json").exists()
    assert run(*command, "--output", stopped) == 0
    for part in ("backbone", "head"):
        files = [folder / part / f"{part}.safetensors" for folder in (whole, stopped)]
        assert files[0].read_bytes() == files[1].read_bytes()
    states = [torch.load(folder / "checkpoints" / "finetune.pt", weights_only=True) for folder in (whole, stopped)]
    assert states[0]["objective"].keys() == states[1]["objective"].keys()
    for key, value in states[0]["objective"].items():
        assert torch.equal(value, states[1]["objective"][key]), key
    assert log_of(whole) == log_of(stopped)
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, stopped)]
    for key in ("chosen", "epoch", "criteria", "target_test", "before", "after"):
        assert results[0][key] == results[1][key]
    if name == "dann":
        assert float(states[0]["objective"]["term.reversal"]) > 0.99


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="processes on a CPU, beside no GPU")
def test_two_processes_do_what_one_does(
    npz: Path, run: Callable, flags: dict, two_processes: Callable, log_of: Callable, tmp_path: Path
) -> None:
    """On a backbone without BatchNorm, with plain steps, whose size is the gradient's."""
    names = ("cdan", "mmd", "self-training")
    command = (
        *("--target", f"npz:{npz}", "--image-size", 16, "--labels", 5, "--batch-size", 32, "--plan", "full"),
        *("--epochs", 1, "--finetune-steps", 30, "--optimizer.name", "sgd", "--optimizer.learning-rate", 0.05),
        *("--finetune-rate", 1, *flags["transformer"]),
    )
    for name in names:
        own = ("--method.confidence", 0) if name == "self-training" else ()
        assert run("adapt", name, *command, *own, "--output", tmp_path / "one" / name) == 0
    worker = Path(__file__).with_name("adapt_worker.py")
    words, environment = two_processes(worker, tmp_path / "two", *names, "--", *command)
    answer = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("is it working?") == len(names)
    moved = []
    for name in names:
        folders = [tmp_path / place / name for place in ("one", "two")]
        states = [torch.load(folder / "checkpoints" / "finetune.pt", weights_only=True) for folder in folders]
        for key, expected in states[0]["objective"].items():
            torch.testing.assert_close(states[1]["objective"][key], expected, rtol=1e-4, atol=1e-5)
        losses = [[line["loss"] for line in log_of(folder) if line["split"] == "train"] for folder in folders]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert len(losses[0]) >= 2
        moved.append(states[0]["objective"]["supervised.backbone.model.patch_embed.proj.weight"])
    # The methods differ by more than the tolerance.
    assert not torch.allclose(moved[0], moved[1], rtol=1e-4, atol=1e-5)
