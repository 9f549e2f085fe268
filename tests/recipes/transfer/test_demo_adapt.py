"""`demo adapt`: all methods on tiny networks, without a network, and started again; Ganin's configuration."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.stages.demos import adapt
from ssl_transfer.stages.demos.adapt import SETTINGS, AdaptDemoConfig

TINY = (
    *("--image-size", "16", "--labels", "2", "--jobs", "1", "--recipe.batch-size", "20"),
    *("--recipe.epochs", "1", "--recipe.finetune-steps", "2", "--loading.test-fraction", "0.9"),
    *("--backbone.arguments", "stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False"),
)


def test_every_setting_of_the_file_arrives() -> None:
    settings = configuration.read_yaml(SETTINGS)
    parsed = configuration.parse(AdaptDemoConfig, settings, [], program="test", default=AdaptDemoConfig())
    held = configuration.flatten(configuration.to_dict(parsed))
    written = configuration.flatten(settings)
    assert written.keys() <= held.keys()
    assert SETTINGS.read_text(encoding="utf-8").startswith("# ssl-transfer demo adapt\n")


@pytest.mark.slow
@pytest.mark.figures
def test_all_methods_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    def unreachable(*arguments: object, **settings: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("socket.socket.connect", unreachable)
    arguments = [*TINY, "--seeds", "0", "--output", str(tmp_path / "run")]
    adapt.main(arguments)
    told = capsys.readouterr().out
    assert "the source alone gets" in told
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    for name, entry in ADAPTATIONS.items():
        assert f"| {name}{' (upper bound)' if entry.on_target else ''} |" in report
    assert (tmp_path / "run" / "features.png").is_file()
    results = sorted((tmp_path / "run" / "runs").rglob("result.json"))
    assert len(results) == len(ADAPTATIONS)
    written = {path: path.stat().st_mtime_ns for path in results}
    # Started again nothing is trained, and one seed more is added.
    adapt.main([*arguments, "--seeds", "0", "1", "--methods", "coral"])
    assert {path: path.stat().st_mtime_ns for path in results} == written
    assert len(list((tmp_path / "run" / "runs").rglob("result.json"))) == len(ADAPTATIONS) + 2


@pytest.mark.slow
def test_a_run_with_an_impossible_number_is_refused(tmp_path: Path, seal_again: Callable) -> None:
    """The table stays as it is, and the printed remedy repeats the run."""
    folder = tmp_path / "run"
    arguments = [*TINY, "--seeds", "0", "--methods", "coral", "--output", str(folder)]
    adapt.main(arguments)
    run = folder / "runs" / "coral" / "seed0"
    content, table = json.loads((run / "result.json").read_text()), (folder / "results.csv").read_bytes()
    content["target_test"]["accuracy"] = float("inf")
    (run / "result.json").write_text(json.dumps(content))
    seal_again(run)
    with pytest.raises(InputError, match=r"target_test\.accuracy is inf, but must be a finite number") as caught:
        adapt.main(arguments)
    assert (folder / "results.csv").read_bytes() == table
    assert f"The same command with --retry moves {run} aside" in str(caught.value)
    adapt.main([*arguments, "--retry"])
    assert "inf" not in (folder / "results.csv").read_text().replace("information", "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--methods", "dan"), "'dan' is not a method of adaptation.*Did you mean .*dann"),
        (("--seeds", "0", "0"), "each only once"),
        (("--jobs", "0"), "jobs"),
    ],
)
def test_mistakes_are_told(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        adapt.main([*TINY, "--output", str(tmp_path / "run"), *flags])


def test_the_configuration_of_ganin_runs(run: Callable, tmp_path: Path) -> None:
    """Its network, discriminator, schedules and halves, on digits of our own."""
    generator = np.random.default_rng(0)
    digits = generator.integers(0, 256, (200, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "digits.npz", x_train=digits, y_train=np.arange(200) % 10)
    (tmp_path / "photographs").mkdir()
    for number in range(3):
        pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{number}.png")
    file = Path(__file__).parents[3] / "recipes" / "configs" / "dann_mnistm.yaml"
    answer = run(
        *("adapt", "--config", file, "--source", "npz:digits.npz", "--target", "blend:npz:digits.npz,photographs"),
        *("--epochs", 1, "--finetune-steps", 2, "--batch-size", 32, "--loading.cache", tmp_path / "cache"),
        *("--output", tmp_path / "run"),
    )
    assert answer.status == 0, answer.err
    weights = json.loads((tmp_path / "run" / "result.json").read_text())
    assert weights["method"] == "dann"
    assert weights["num_parameters"] == (5 * 5 * 3 + 1) * 32 + (5 * 5 * 32 + 1) * 48
    config = configuration.read_yaml(tmp_path / "run" / "config.yaml")
    assert (config["method"]["hidden_width"], config["method"]["hidden_layers"]) == ("100", "1")
    assert (config["optimizer"]["schedule"], config["optimizer"]["momentum"]) == ("inverse", "0.9")


@pytest.mark.figures
def test_pretraining_on_both_domains_is_one_more_start(run: Callable, tmp_path: Path, tiny: dict) -> None:
    both = tmp_path / "both"
    answer = run(
        *("pretrain", "simclr", "--data", "union:digits,blended-digits", "--output", both),
        *(*tiny["convolutional"], "--image-size", 16, "--batch-size", 256, "--epochs", 1),
    )
    assert answer.status == 0, answer.err
    assert "1146 images of blended-digits in the pool" in answer.out
    answer = run(
        *("adapt", "coral", "--init", both, "--source", "digits", "--target", "blended-digits", "--labels", 2),
        *("--epochs", 1, "--head-steps", 2, "--finetune-steps", 2, "--output", tmp_path / "run"),
    )
    assert answer.status == 0, answer.err
    # Two labels a class are fewer images than the source's half of a batch; and what is tested was in no pool.
    assert "20 labelled images of digits" in answer.out
    answer = run("evaluate", tmp_path / "run", "--data", "blended-digits", "--split", "test")
    assert answer.status == 0, answer.err
