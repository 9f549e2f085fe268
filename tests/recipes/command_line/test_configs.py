"""Every YAML that the project ships says its command, is understood, and runs."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from ssl_transfer import METHODS, CompareConfig, PretrainConfig, TransferConfig, default_recipe
from ssl_transfer.cli.main import COMMANDS
from ssl_transfer.engine import config as configuration
from ssl_transfer.models import backbones
from ssl_transfer.models import pretrained as initialize
from ssl_transfer.stages.demos import compare, distill
from ssl_transfer.stages.pretrain.config import prepare

CONFIGS = Path(__file__).parents[3] / "recipes" / "configs"
PRETRAINING = tuple(f"{method}_digits" for method in METHODS)
UNMEASURED = tuple(f"{method}_{images}" for method in METHODS for images in ("cifar10", "224px"))
"""What takes GPUs."""
ADAPTING = ("dann_mnistm",)
"""What needs photographs that are not the project's, and was measured on others."""
SWEEPS = ("sweep_pretrain", "sweep_transfer")
"""In wandb's own format."""
OTHERS = ("compare_photographs", "compare_surface_defects", "transfer_digits")


def test_all_files_are_known() -> None:
    known = [*PRETRAINING, *UNMEASURED, *ADAPTING, *SWEEPS, *OTHERS]
    assert sorted(path.stem for path in CONFIGS.iterdir()) == sorted(known)


@pytest.mark.parametrize("name", [*PRETRAINING, *ADAPTING, *OTHERS])
def test_opens_with_its_command_and_result(name: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    program, stage, flag, path, *_ = text.splitlines()[0].removeprefix("# ").split()
    assert (program, flag, path) == ("ssl-transfer", "--config", f"recipes/configs/{name}.yaml")
    assert stage in COMMANDS
    comment = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    assert re.search("on (one|two|four) (busy )?cores?", comment)
    assert "%" in comment


@pytest.mark.parametrize("name", UNMEASURED)
def test_opens_with_its_command_and_says_that_it_was_not_measured(name: str) -> None:
    lines = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert f"--config recipes/configs/{name}.yaml" in lines[0]
    comment = " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
    assert "Not measured" in comment


def as_written(value: object) -> object:
    """A setting as YAML's own types and as the configuration's: `1` and `1.0`, lists and tuples, are the same."""
    if isinstance(value, (list, tuple)):
        return [as_written(item) for item in value]
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def assert_every_setting_arrived(path: Path, config: object) -> None:
    # YAML itself reads 3e-3 as a string.
    text = re.sub(r"(?<![.\d])(\d+)e-", r"\1.0e-", path.read_text(encoding="utf-8"))
    written = configuration.flatten(yaml.safe_load(text))
    held = configuration.flatten(configuration.to_dict(config))
    held |= {name.removeprefix("recipes."): value for name, value in held.items()}
    written.pop("method.name", None)
    assert written
    assert {name: as_written(value) for name, value in written.items()} == {
        name: as_written(held[name]) for name in written
    }


def pretraining(path: Path) -> PretrainConfig:
    settings = configuration.read_yaml(path)
    method = settings["method"].pop("name")
    kind = PretrainConfig[METHODS[method].config]
    default = kind(**configuration.shallow(default_recipe(method)))
    return configuration.parse(kind, settings, [], program="test", default=default)


@pytest.mark.parametrize("name", [*PRETRAINING, *UNMEASURED])
def test_pretraining_settings_arrive(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    config = pretraining(path)
    assert_every_setting_arrived(path, config)
    assert backbones.is_timm(config.backbone.name)
    backbones.check_name(config.backbone.name)


@pytest.mark.parametrize("method", METHODS)
def test_cifar_settings_train(method: str, make_batch: Callable) -> None:
    """At its real size, on two images."""
    config = pretraining(CONFIGS / f"{method}_cifar10.yaml")
    spec = backbones.make_spec(config.backbone, in_chans=3, image_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    objective = prepare(config, initialize.scratch(spec, seed=0))
    loss = objective.train()(make_batch(2, size=32)).loss
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("path", "default"),
    [
        (CONFIGS / "transfer_digits.yaml", TransferConfig()),
        (CONFIGS / "compare_photographs.yaml", CompareConfig()),
        (CONFIGS / "compare_surface_defects.yaml", CompareConfig()),
        (compare.SETTINGS, CompareConfig()),
        (distill.SETTINGS, distill.DistillDemoConfig()),
    ],
    ids=["transfer", "photographs", "compare", "demo", "demo distill"],
)
def test_other_settings_arrive(path: Path, default: object) -> None:
    settings = configuration.read_yaml(path)
    parsed = configuration.parse(type(default), settings, [], program="test", default=default)
    assert_every_setting_arrived(path, parsed)


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_runs(name: str, run: Callable, tmp_path: Path) -> None:
    answer = run("pretrain", "--config", CONFIGS / f"{name}.yaml", "--output", tmp_path / "run", "--epochs", 1)
    assert answer.status == 0, answer.err
    assert (tmp_path / "run" / "backbone" / "backbone.json").is_file()


def test_transfer_runs(run: Callable, tmp_path: Path, pretrained: Path) -> None:
    few = ("--image-size", 16, "--head-steps", 4, "--finetune-steps", 4)
    path = CONFIGS / "transfer_digits.yaml"
    answer = run("transfer", "--config", path, "--init", pretrained, "--output", tmp_path / "run", *few)
    assert answer.status == 0, answer.err
    assert "preferred by validation" in answer.out


def test_comparison_runs(run: Callable, tmp_path: Path, tiny: dict) -> None:
    path = CONFIGS / "compare_surface_defects.yaml"
    few = (*tiny["compare"], *tiny["convolutional"], "--epochs", 1, "--seeds", 0, "--labels", 2, "--jobs", 1)
    arms = ("--arms", "scratch", "simclr")
    answer = run("compare", "--config", path, "--data", "digits", "--output", tmp_path / "run", *few, *arms)
    assert answer.status == 0, answer.err
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.figures
def test_demo_runs_without_a_network(
    run: Callable, tmp_path: Path, tiny: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: object, **settings: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    methods = ("simclr", "moco", "mae", "autoencoder")
    few = (
        *tiny["compare"],
        *tiny["convolutional"],
        *(word for method in methods for word in (f"--{method}.epochs", 1)),
        *("--mae.backbone.arguments", "patch_size=8", "embed_dim=16", "depth=1", "num_heads=2"),
        *("--seeds", 0, "--labels", 2, "--pretrain-seeds", 1, "--jobs", 1),
    )
    answer = run("demo", *few, "--output", tmp_path / "run")
    assert answer.status == 0, answer.err
    assert "without the imagenet arm" in answer.out
    assert "no network" in answer.out
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert all(f"| {arm} |" in report for arm in ("scratch", *methods))


def test_demo_keeps_what_a_file_does_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Callable) -> None:
    """A file with one setting of a method changes that one alone."""
    started: list[CompareConfig] = []
    monkeypatch.setattr("ssl_transfer.stages.compare.compare.run", started.append)
    (tmp_path / "mine.yaml").write_text("simclr: {epochs: 5}\n", encoding="utf-8")
    arms = ("--arms", "scratch", "simclr")
    assert run("demo", *arms).status == 0
    assert run("demo", *arms, "--config", tmp_path / "mine.yaml").status == 0
    plain, mine = (configuration.flatten(configuration.to_dict(config)) for config in started)
    assert {name for name in plain if plain[name] != mine[name]} == {"recipes.simclr.epochs"}
