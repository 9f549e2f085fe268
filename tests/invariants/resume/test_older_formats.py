"""Runs that older versions began are gone on with: `formats/N/run` was stopped by the version that wrote format N."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssl_transfer.engine.runs import checkpoint_files

FORMATS = Path(__file__).parent / "formats"
COMMAND = (
    *("pretrain", "simclr", "--image-size", 16, "--batch-size", 256, "--epochs", 2, "--evaluate-every", 1),
    *("--backbone.name", "vit_tiny_patch16_224", "--backbone.stem", "small"),
    *("--backbone.arguments", "embed_dim=8", "depth=1", "num_heads=1"),
    *("--method.hidden-width", 8, "--method.output-width", 8),
)
"""With which each was begun; stopped after the first of two epochs."""


def test_every_older_format_is_here() -> None:
    assert sorted(int(folder.name) for folder in FORMATS.iterdir()) == list(range(1, checkpoint_files.FORMAT))


@pytest.mark.parametrize("version", range(1, checkpoint_files.FORMAT))
def test_a_run_of_an_older_version_goes_on(
    version: int, run: Callable, log_of: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = shutil.copytree(FORMATS / str(version) / "run", tmp_path / "older")
    held = torch.load(older / "checkpoints" / "last.pt", weights_only=True)
    assert (held["format"], held["step"]) == (version, 4)
    assert run(*COMMAND, "--output", older) == 0
    assert "going on after step 4 of 8" in capsys.readouterr().out
    assert torch.load(older / "checkpoints" / "last.pt", weights_only=True)["format"] == checkpoint_files.FORMAT
    assert run(*COMMAND, "--output", tmp_path / "new") == 0
    weights = [load_file(folder / "backbone" / "backbone.safetensors") for folder in (older, tmp_path / "new")]
    assert len(weights[0]) > 10
    # BatchNorm in the projector removes a shift of all features, so that this bias has no gradient but rounding noise,
    # whose sign alone Adam follows: it differs between processors.
    assert weights[0].pop("norm.bias").shape == weights[1].pop("norm.bias").shape
    for name, value in weights[1].items():
        # Another machine wrote the first half.
        torch.testing.assert_close(weights[0][name], value, rtol=1e-3, atol=1e-4)
    assert len(log_of(older)) == len(log_of(tmp_path / "new")) == 4


@pytest.mark.parametrize("version", range(1, checkpoint_files.FORMAT))
def test_its_other_settings_are_still_held_to(
    version: int, run: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = shutil.copytree(FORMATS / str(version) / "run", tmp_path / "older")
    assert run(*COMMAND, "--seed", 1, "--output", older) == 2
    message = capsys.readouterr().err
    assert "seed was '0' and is now '1'" in message or "seed was 0 and is now 1" in message
