"""A training that was stopped and started again equals one that was never stopped, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_transfer.engine.training.checkpointing import State
from ssl_transfer.methods import METHODS
from ssl_transfer.models import pretrained
from ssl_transfer.objectives.supervised import Supervised

STOPPED = 130
"""Exit status after Ctrl-C."""
STEPS_AN_EPOCH = 4
"""1,146 digits in batches of 256."""
SMALL = ("--image-size", 16, "--batch-size", 256)
SMALL_DECODER = ("--method.decoder-width", 16, "--method.decoder-depth", 1, "--method.decoder-heads", 2)


@pytest.fixture
def stop_in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], None]]:
    """`forget = stop_in_step(objective, 6)`: Ctrl-C in the sixth step from now on, until `forget()`.

    Meanwhile a state is saved after every step, or with `saved` false only at the ends of trainings.
    """

    def arrange(objective: type, number: int, *, saved: bool = True) -> Callable[[], None]:
        steps = 0
        plain = objective.after_step

        def after_step(self: Any, progress: float) -> None:
            nonlocal steps
            steps += 1
            if steps == number:
                raise KeyboardInterrupt
            plain(self, progress)

        monkeypatch.setattr(State, "due", saved)
        monkeypatch.setattr(objective, "after_step", after_step)
        return monkeypatch.undo

    return arrange


def tensors_of(value: Any, place: str = "") -> dict[str, Tensor]:
    """Every tensor in nested containers, by its place."""
    if isinstance(value, Tensor):
        return {place: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {name: tensor for key, item in items for name, tensor in tensors_of(item, f"{place}/{key}").items()}


def assert_same_state(first: Path, second: Path) -> None:
    """Weights, buffers, queues, moments of the optimiser: all bits are the same."""
    states = [tensors_of(torch.load(path, weights_only=True)) for path in (first, second)]
    assert states[0].keys() == states[1].keys()
    assert len(states[0]) > 30
    assert [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])] == []


def assert_same_export(first: Path, second: Path) -> None:
    files = [folder / "backbone" / "backbone.safetensors" for folder in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()


CASES = [
    *((name, "convolutional") for name, entry in METHODS.items() if entry.backbones != "vit"),
    # What resumes with dropped blocks resumes without them.
    *((name, "dropping transformer") for name, entry in METHODS.items() if entry.backbones == "vit"),
    *(
        pytest.param(name, "transformer", marks=pytest.mark.slow)
        for name, entry in METHODS.items()
        if entry.backbones == "vit"
    ),
    pytest.param("simclr", "dropping transformer", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("method", "backbone"), CASES)
def test_pretraining(
    method: str,
    backbone: str,
    run: Callable,
    flags: dict,
    log_of: Callable,
    stop_in_step: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ("pretrain", method, *SMALL, "--epochs", 3, "--evaluate-every", 1, *flags[backbone])
    command += SMALL_DECODER if method == "mae" else ()
    if method in ("byol", "simsiam", "mocov3"):
        command += ("--method.hidden-width", 32, "--method.output-width", 32)
    if method == "dino":
        # Stopped while the teacher's temperature rises, and after the prototypes began to learn.
        command += ("--method.local-crops", 1, "--method.output-width", 64, "--method.frozen-steps", 2)
        command += ("--method.teacher-temperature", 0.06, "--method.temperature-steps", 10)
    if method == "moco":
        # Not a multiple of the batch: the pointer stands in the middle when the training stops.
        command += ("--method.queue-size", 600)
    if method == "autoencoder":
        command += ("--method.noise", 0.3, "--method.mask-ratio", 0.3)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(*command, "--output", whole) == 0

    forget = stop_in_step(METHODS[method].module, STEPS_AN_EPOCH + 2)
    assert run(*command, "--output", stopped) == STOPPED
    forget()
    assert torch.load(stopped / "checkpoints" / "last.pt", weights_only=True)["step"] == STEPS_AN_EPOCH + 1
    assert not (stopped / "result.json").exists()
    assert run(*command, "--output", stopped) == 0
    assert f"going on after step {STEPS_AN_EPOCH + 1} of {3 * STEPS_AN_EPOCH}" in capsys.readouterr().out

    assert_same_export(whole, stopped)
    assert_same_state(whole / "checkpoints" / "last.pt", stopped / "checkpoints" / "last.pt")
    assert len(log_of(whole)) == 6
    assert log_of(stopped) == log_of(whole)


def test_dropped_blocks_matter(run: Callable, flags: dict, tmp_path: Path) -> None:
    """Check that drop path changes the training, so that the test above is not empty."""
    command = ("pretrain", "mae", *SMALL, "--epochs", 1, *SMALL_DECODER)
    for name in ("transformer", "dropping transformer"):
        assert run(*command, *flags[name], "--output", tmp_path / name) == 0
    files = [tmp_path / name / "backbone" / "backbone.safetensors" for name in ("transformer", "dropping transformer")]
    assert files[0].read_bytes() != files[1].read_bytes()


STOPS = {"head": 5, "first epoch of finetune": 8, "finetune": 13}
QUICK = {("head", "convolutional"), ("first epoch of finetune", "dropping transformer"), ("finetune", "convolutional")}


@pytest.mark.parametrize(
    ("stop", "backbone"),
    [
        pytest.param(
            *(stop, backbone),
            id=f"{place}-{backbone}",
            marks=[] if (place, backbone) in QUICK else pytest.mark.slow,
        )
        for place, stop in STOPS.items()
        for backbone in ("convolutional", "dropping transformer")
    ],
)
def test_transfer(
    backbone: str,
    stop: int,
    run: Callable,
    flags: dict,
    log_of: Callable,
    stop_in_step: Callable,
    tmp_path: Path,
) -> None:
    """20 images in batches of 8: two steps an epoch; three epochs of the head, then five of everything."""
    command = (
        *("transfer", "--image-size", 16, "--labels", 2, "--batch-size", 8, *flags[backbone]),
        *("--epochs", 1, "--head-steps", 6, "--finetune-steps", 10),
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(*command, "--output", whole) == 0

    forget = stop_in_step(Supervised, stop)
    assert run(*command, "--output", stopped) == STOPPED
    forget()
    assert not (stopped / "result.json").exists()
    assert run(*command, "--output", stopped) == 0

    assert_same_export(whole, stopped)
    for phase in ("head", "finetune"):
        assert_same_state(whole / "checkpoints" / f"{phase}.pt", stopped / "checkpoints" / f"{phase}.pt")
    assert (whole / "head" / "head.safetensors").read_bytes() == (stopped / "head" / "head.safetensors").read_bytes()
    assert log_of(stopped) == log_of(whole)


def test_stopped_after_the_last_step(
    run: Callable, flags: dict, log_of: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is trained, nothing exported yet: started again, it exports what was trained."""
    command = ("pretrain", "simclr", *SMALL, "--epochs", 1, *flags["convolutional"])
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(*command, "--output", whole) == 0

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pretrained, "save_weights", interrupt)
        assert run(*command, "--output", stopped) == STOPPED
    assert not (stopped / "result.json").exists()
    assert run(*command, "--output", stopped) == 0
    assert_same_export(whole, stopped)
    assert log_of(stopped) == log_of(whole)


def test_stopped_before_the_first_state(
    run: Callable, flags: dict, log_of: Callable, stop_in_step: Callable, tmp_path: Path
) -> None:
    command = ("pretrain", "simclr", *SMALL, "--epochs", 2, *flags["convolutional"])
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert run(*command, "--output", whole) == 0
    forget = stop_in_step(METHODS["simclr"].module, STEPS_AN_EPOCH + 2, saved=False)
    assert run(*command, "--output", stopped) == STOPPED
    forget()
    assert not (stopped / "checkpoints" / "last.pt").exists()
    # What was logged and then lost is logged again, once.
    assert len(log_of(stopped)) == 1
    assert run(*command, "--output", stopped) == 0
    assert_same_export(whole, stopped)
    assert log_of(stopped) == log_of(whole)


def test_stopped_in_a_notebook(flags: dict, stop_in_step: Callable, tmp_path: Path) -> None:
    """Ctrl-C in a cell, then the cell again: the same process goes on, though the traceback holds the first call."""
    from ssl_transfer import PretrainConfig, default_recipe, pretrain
    from ssl_transfer.engine import config as configuration
    from ssl_transfer.models.backbones import BackboneConfig

    _, name, _, stem, _, *arguments = flags["convolutional"]
    backbone = BackboneConfig(name=name, stem=stem, arguments=tuple(arguments))
    recipe = {**configuration.shallow(default_recipe("simclr")), "backbone": backbone, "epochs": 2, "batch_size": 256}
    config = PretrainConfig(**recipe, image_size=16, output=tmp_path / "run")
    forget = stop_in_step(METHODS["simclr"].module, STEPS_AN_EPOCH + 2)
    with pytest.raises(KeyboardInterrupt) as stopped:
        pretrain(config)
    forget()
    assert pretrain(config)["steps"] == 2 * STEPS_AN_EPOCH
    assert stopped.traceback


def test_seeds_differ(run: Callable, flags: dict, tmp_path: Path) -> None:
    """Equality means something: another seed gives other bits."""
    for seed in (0, 1):
        command = ("pretrain", "simclr", *SMALL, "--epochs", 1, "--seed", seed, *flags["convolutional"])
        assert run(*command, "--output", tmp_path / f"seed{seed}") == 0
    files = [tmp_path / f"seed{seed}" / "backbone" / "backbone.safetensors" for seed in (0, 1)]
    assert files[0].read_bytes() != files[1].read_bytes()
