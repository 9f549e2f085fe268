"""Two processes on a CPU do what one does, through the real commands and with every setting of the loop."""

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ssl_transfer.engine.distributed import collectives

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="processes on a CPU, beside no GPU")
HERE = Path(__file__).parent
RECIPE = HERE.parents[2] / "recipes" / "pretrain.py"
# Adam divides by the gradient's own size, which makes much of rounding where a gradient is zero but for rounding (a
# key's bias in attention); plain steps show the gradients as they are.
TRAINING = (
    *("mae", "--image-size", "16", "--epochs", "2", "--batch-size", "128", "--optimizer.clip-norm", "1"),
    *("--method.decoder-width", "16", "--method.decoder-depth", "1", "--method.decoder-heads", "2"),
    *("--optimizer.name", "sgd", "--optimizer.second-momentum", "0.999", "--optimizer.learning-rate", "0.02"),
    *("--optimizer.warmup-steps", "2"),
)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
"""What float32 rounding over 16 steps may move, and nothing else."""


def launch(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def mae_runs(
    tmp_path_factory: pytest.TempPathFactory, run: Callable, flags: dict, many_forked: Callable
) -> tuple[Path, Path, str]:
    """The same MAE training by one process and by two, and what the two printed."""
    folder = tmp_path_factory.mktemp("mae")
    command = ("pretrain", *TRAINING, *flags["transformer"])
    assert run(*command, "--output", folder / "one") == 0
    answer = many_forked(2, HERE / "commands_worker.py", *command, "--output", folder / "two")
    assert answer.returncode == 0, answer.stderr
    return folder / "one", folder / "two", answer.stdout


def test_mae_takes_the_same_steps(mae_runs: tuple) -> None:
    one, two, printed = mae_runs
    assert "2 processes on CPU" in printed
    assert "16 steps of 128 images" in printed
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    for name in ("steps", "images_seen"):
        assert results[0][name] == results[1][name]
    assert results[0]["images_seen"] == 16 * 128
    environment = json.loads((two / "environment.json").read_text())
    assert environment["devices"].startswith("2 processes on CPU")


def test_only_one_process_writes(mae_runs: tuple, log_of: Callable) -> None:
    one, two, printed = mae_runs
    places = [[(line["split"], line["step"]) for line in log_of(folder)] for folder in (one, two)]
    assert places[0] == places[1] == [("train", 8), ("train", 16), ("validation", 16)]
    assert printed.count("16 steps in") == 1
    assert printed.count("pretraining vit_tiny_patch16_224") == 1
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())


def test_mae_learns_the_same_backbone(mae_runs: tuple, log_of: Callable) -> None:
    one, two, _ = mae_runs
    weights = [load_file(folder / "backbone" / "backbone.safetensors") for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, **CLOSE)
    losses = [[line["loss"] for line in log_of(folder) if "loss" in line] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_moves_more_than_the_tolerance(mae_runs: tuple, run: Callable, flags: dict, tmp_path: Path) -> None:
    """The test above can fail: one more step of warm-up is further away than the tolerance."""
    settings = (*TRAINING, *flags["transformer"], "--optimizer.warmup-steps", "3")
    assert run("pretrain", *settings, "--output", tmp_path / "other") == 0
    weights = [load_file(folder / "backbone" / "backbone.safetensors") for folder in (mae_runs[0], tmp_path / "other")]
    differing = [name for name in weights[0] if not torch.allclose(weights[0][name], weights[1][name], **CLOSE)]
    assert len(differing) > len(weights[0]) / 2


PLAIN = ("--image-size", "16", "--optimizer.name", "sgd", "--optimizer.warmup-steps", "2")
COMMANDS = {
    "pretrain": (
        *("pretrain", "simclr", "--epochs", "2", "--batch-size", "1146", "--optimizer.learning-rate", "0.002", *PLAIN),
    ),
    "transfer": (
        *("transfer", "--labels", "20", "--epochs", "1", "--head-steps", "6", "--finetune-steps", "6"),
        *("--batch-size", "100", "--finetune-rate", "1", "--optimizer.learning-rate", "0.02", *PLAIN),
    ),
}
NEAR = 3e-5
"""Of a loss. Few steps: in float32 a batch in another order alone moved SimCLR's loss by 8e-4 of it in the third and by
3e-3 in the fourth, on one process. test_world_sizes.py compares in float64, to 1e-9."""


@pytest.fixture(scope="module")
def logs(
    tmp_path_factory: pytest.TempPathFactory, run: Callable, flags: dict, many_forked: Callable, log_of: Callable
) -> dict[str, list[dict[str, Any]]]:
    """Return the log of each command with BatchNorm: `one pretrain`, `two pretrain`, `apart pretrain`, ..."""
    folder, words, found = tmp_path_factory.mktemp("commands"), [], {}
    for name, command in COMMANDS.items():
        assert run(*command, *flags["convolutional"], "--output", folder / f"one {name}") == 0
        for place, more in (("two", ()), ("apart", ("--optimizer.no-sync-batch-norm",))):
            words += [*command, *flags["convolutional"], *more, "--output", folder / f"{place} {name}", ","]
    answer = many_forked(2, HERE / "commands_worker.py", *words)
    assert answer.returncode == 0, answer.stderr
    for path in folder.iterdir():
        found[path.name] = log_of(path)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_with_batch_norm_a_command_has_the_same_curves(name: str, logs: dict) -> None:
    one = logs[f"one {name}"]
    assert len(one) >= 2

    def distance(others: list[dict[str, Any]]) -> float:
        pairs = [pair for pair in zip(one, others, strict=True) if "loss" in pair[0]]
        return max(abs(first["loss"] - second["loss"]) / abs(first["loss"]) for first, second in pairs)

    assert distance(logs[f"two {name}"]) < NEAR
    # The test can fail: each process's own statistics give another training.
    assert distance(logs[f"apart {name}"]) > 3 * NEAR


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, many_forked: Callable) -> list[dict[str, Any]]:
    """Return the final state of each of two processes (worker.py)."""
    folder = tmp_path_factory.mktemp("ranks")
    answer = many_forked(2, HERE / "worker.py", folder)
    assert answer.returncode == 0, answer.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def worker() -> Any:
    """worker.py as a module, for what one process has."""
    spec = importlib.util.spec_from_file_location("worker", HERE / "worker.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_contrast_over_all_processes(ranks: list, worker: Any) -> None:
    """NT-Xent: the mean of two processes' losses and gradients is what one process has over all images."""
    loss, gradient = worker.contrast_gradient(0, 1)
    assert float(gradient.abs().max()) > 0.01
    torch.testing.assert_close((ranks[0]["loss"] + ranks[1]["loss"]) / 2, loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((ranks[0]["gradient"] + ranks[1]["gradient"]) / 2, gradient, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(ranks[0]["gradient"], gradient, rtol=1e-4, atol=1e-6)


def test_gather_is_in_rank_order(ranks: list) -> None:
    for rank in ranks:
        assert rank["gathered"].tolist() == [0, 2, 4, 1, 3, 5]


def test_gather_with_gradient(ranks: list) -> None:
    """A row's gradient is the sum of what all processes' losses have for it."""
    first = torch.arange(6.0).view(2, 3).T
    weights = torch.arange(12.0).view(6, 2) * (1 + 2)
    for rank, found in enumerate(ranks):
        assert torch.equal(found["gathered pairs"], torch.cat([first, first + 10.0]))
        assert torch.equal(found["gradient of pairs"], weights.chunk(2)[rank])


def test_gather_of_one_process_is_the_identity() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    assert collectives.gather(rows) is rows


def test_transfer_leaves_identical_weights_everywhere(ranks: list) -> None:
    """After both phases, the second with its own wrapper: weights and BatchNorm's statistics are every process's."""
    first, second = (rank["transferred"] for rank in ranks)
    assert list(first) == list(second) == ["head", "finetune"]
    for phase, state in first.items():
        assert len(state) > 20
        assert [name for name, value in state.items() if not torch.equal(value, second[phase][name])] == []
    moved = [name for name, value in first["head"].items() if not torch.equal(value, first["finetune"][name])]
    assert any(name.startswith("backbone.model.layer1") for name in moved)


def test_every_setting_of_the_loop_gives_identical_weights_everywhere(ranks: list) -> None:
    """Plateau, stopping, micro-batches, moving average: after a frozen phase and one that unfreezes all."""
    first, second = (rank["phased"] for rank in ranks)
    assert list(first) == ["curve", "head", "head summary", "all", "all summary"]
    assert first["curve"] == second["curve"]
    assert len(first["curve"]) > 20
    for phase in ("head", "all"):
        assert len(first[phase]) > 15
        assert [name for name, value in first[phase].items() if not torch.equal(value, second[phase][name])] == []
        assert first[f"{phase} summary"] == second[f"{phase} summary"]
    moved = {name for name, value in first["head"].items() if not torch.equal(value, first["all"][name])}
    assert any(name.startswith("backbone.model.blocks") for name in moved)


def test_every_setting_of_the_loop_does_what_one_process_does(
    ranks: list, worker: Any, runtime: Any, tmp_path: Path
) -> None:
    alone, two = worker.phased_state(runtime, tmp_path / "phased"), ranks[0]["phased"]
    assert alone["curve"] == pytest.approx(two["curve"], rel=1e-4)
    for phase in ("head", "all"):
        assert alone[f"{phase} summary"] == two[f"{phase} summary"]
        for name, value in alone[phase].items():
            torch.testing.assert_close(two[phase][name], value, rtol=1e-4, atol=1e-5)
    # Training moves much further than the tolerance.
    moved = {name: (value - alone["all"][name]).abs().max() for name, value in alone["head"].items()}
    assert sum(bool(distance > 3e-4) for distance in moved.values()) > 10


@pytest.mark.slow
def test_processes_that_would_not_find_each_other_are_refused(
    two_processes: Callable, flags: dict, tmp_path: Path
) -> None:
    settings = ("simclr", "--image-size", "16", "--epochs", "1", *flags["convolutional"], "--output", tmp_path / "run")
    answer = launch(*two_processes(RECIPE, *settings, joined=False))
    assert answer.returncode != 0
    assert "ACCELERATE_USE_CPU=true" in answer.stderr
    assert "exitcode  : 2" in answer.stderr
    assert not (tmp_path / "run").exists()


def test_one_process_of_two_is_refused(
    run: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    assert run("pretrain", "simclr", "--output", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "started 2 processes" in said
    assert "ACCELERATE_USE_CPU=true" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("batch_size", [127, 129])
def test_batch_is_shared_out_evenly_or_refused(batch_size: int, make_dataset: Callable) -> None:
    from types import SimpleNamespace

    from ssl_transfer.data.loaders.loader import Loader
    from ssl_transfer.engine.errors import InputError

    runtime: Any = SimpleNamespace(num_processes=2, process_index=0, device=torch.device("cpu"))
    dataset = make_dataset()
    with pytest.raises(InputError, match=f"--batch-size {batch_size}: it must be a multiple of the 2 processes"):
        Loader(dataset, dataset.pool, batch_size=batch_size, seed=0, runtime=runtime, labelled=False)
