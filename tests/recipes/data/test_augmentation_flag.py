"""`--augmentation KIND` chooses defaults; flags, files and the settings of a run win over it."""

import pytest
import yaml

from ssl_transfer import CompareConfig, TransferConfig, default_recipe
from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.data.transforms.presets import KINDS
from ssl_transfer.engine.errors import InputError
from ssl_transfer.stages.common.augmentation_flag import adapted
from ssl_transfer.stages.compare import compare
from ssl_transfer.stages.pretrain import pretrain
from ssl_transfer.stages.transfer import transfer


@pytest.fixture
def parsed(monkeypatch):
    """`parsed("pretrain", "simclr", ...)`: the configuration that the command would run."""
    seen = []
    stages = {"pretrain": (pretrain, "pretrain"), "transfer": (transfer, "transfer"), "compare": (compare, "run")}
    for module, runs in stages.values():
        monkeypatch.setattr(module, runs, seen.append)

    def parse(stage, *arguments):
        stages[stage][0].main([str(argument) for argument in arguments])
        return seen.pop()

    return parse


def test_pretraining_takes_the_kind(parsed):
    assert parsed("pretrain", "simclr").method.augment == AugmentConfig()
    for flags in (("simclr", "--augmentation", "texture"), ("--augmentation=texture", "simclr")):
        config = parsed("pretrain", *flags)
        assert (config.method.augment.rotation, config.method.augment.vertical_flip) == (180.0, 0.5)
        assert config.method == default_recipe("simclr", augmentation="texture").method
    assert parsed("pretrain", "mae", "--augmentation", "texture").method.augment.jitter == 0.0


def test_flags_win_over_the_file_and_both_over_the_kind(parsed, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("augmentation: digits\nmethod:\n  name: simclr\n  augment: {shear: 3, rotation: 4}\n")
    augment = parsed("pretrain", "--config", file, "--method.augment.rotation", "5").method.augment
    assert (augment.rotation, augment.shear, augment.flip, augment.padding) == (5.0, 3.0, 0.0, "zeros")
    augment = parsed("pretrain", "--config", file, "--augmentation", "natural").method.augment
    assert (augment.rotation, augment.shear, augment.flip) == (4.0, 3.0, 0.5)


def test_transfer_takes_the_kind(parsed):
    assert parsed("transfer", "--augmentation", "digits").augment.crop_scale == (0.8, 1.25)
    assert parsed("transfer").augment == TransferConfig().augment


def test_a_comparison_takes_the_kind_everywhere(parsed):
    config = parsed("compare", "--augmentation", "digits", "--simclr.method.augment.flip", "0.1")
    assert config.transfer.augment.crop_scale == (0.8, 1.25)
    assert config.recipes.simclr.method.augment.crop_scale == (0.6, 1.6)
    assert config.recipes.simclr.method.augment.flip == 0.1
    assert config.recipes.moco.method.augment.flip == 0.0
    assert config.recipes.mae.method.augment.crop_scale == (0.7, 1.4)
    assert config.transfer == adapted(CompareConfig(), "digits").transfer
    assert adapted(CompareConfig(), "natural") == CompareConfig() == parsed("compare")


@pytest.mark.parametrize("command", [("pretrain", "simclr"), ("transfer",), ("compare",)])
def test_help_names_the_kinds_and_a_slip_the_near_one(run, command):
    answer = run(*command, "--help")
    assert answer.status == 0
    assert "--augmentation" in answer.out
    assert all(kind in answer.out for kind in KINDS)
    answer = run(*command, "--augmentation", "textur")
    assert answer.status == 2
    assert "Did you mean texture" in answer.err
    answer = run(*command, "--augmentation")
    assert answer.status == 2
    assert "natural, greyscale, texture, digits" in answer.err


def test_the_folder_of_a_run_keeps_the_values(run, tiny, tmp_path):
    flags = (*tiny["pretrain"], *tiny["convolutional"], "--augmentation", "texture", "--output", tmp_path / "run")
    assert run("pretrain", "simclr", *flags).status == 0
    settings = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert "augmentation" not in settings
    assert settings["method"]["augment"]["rotation"] == 180.0
    again = run("pretrain", "--config", tmp_path / "run/config.yaml")
    assert (again.status, "finished before" in again.out) == (0, True)


def test_a_kind_from_python_that_does_not_exist():
    with pytest.raises(InputError, match=r"natrual: there are natural, .* Did you mean natural"):
        default_recipe("simclr", augmentation="natrual")
