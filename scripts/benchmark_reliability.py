"""Measure the cost of reliability: `scripts/benchmark.py reliability`.

- A training step that looks whether loss and gradient are finite, and keeps what a forward pass changes, against one
  that does not.
- A state that is flushed, renamed and kept beside the one before, against a plain `torch.save`; one that is held
  against its checksums, against a plain `torch.load`.
- `--deterministic` against without: on a CPU nothing, on a GPU what the slower algorithms cost.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.distributed.consensus import Consensus
from ssl_transfer.engine.io import state_files
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig, parameter_groups
from ssl_transfer.engine.runs.checkpoint_files import StateFiles
from ssl_transfer.engine.training import stepper
from ssl_transfer.engine.training.nonfinite import Flag, Skips, Snapshot
from ssl_transfer.engine.training.objective import Batch
from ssl_transfer.engine.training.stepper import Steps
from ssl_transfer.engine.training.training_settings import TrainingPlan
from ssl_transfer.methods import METHODS
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.backbones import BackboneConfig

BATCH, SIZE, STEPS, TURNS = 128, 32, 6, 5
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "simclr, resnet18": ("simclr", {}),
    "moco, resnet18, queue of 65,536": ("moco", {"queue_size": 65536}),
}


def figures(device: torch.device) -> Iterator[dict[str, Any]]:
    """Each with the ratio of the plain side's seconds to ours."""
    for name, (method, settings) in CASES.items():
        plain, guarded = _stepping(method, settings), _stepping(method, settings)
        with _unguarded():
            plain()
        guarded()
        ours, theirs = _turns(guarded, _within(_unguarded, plain), device)
        label = f"guarded step, {name} at {SIZE} px, batch {BATCH}"
        yield _figure(label, ours, theirs, bar=0.95, device=device, theirs_is="the same unguarded", each=STEPS)
    yield from _states(device)
    step, other = _stepping("simclr", {}), _stepping("simclr", {})
    ours, theirs = _turns(_within(_deterministic, step), other, device)
    yield _figure(
        f"deterministic step, simclr, resnet18 at {SIZE} px, batch {BATCH}",
        ours,
        theirs,
        bar=None,
        device=device,
        theirs_is="without --deterministic",
        each=STEPS,
    )


def _states(device: torch.device) -> Iterator[dict[str, Any]]:
    """A ResNet-50 with AdamW's moments."""
    spec = backbones.make_spec(
        BackboneConfig(name="resnet50"), in_chans=3, image_size=224, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    weights = pretrained.scratch(spec, seed=0).state_dict()
    state = {str(number): {name: value.clone() for name, value in weights.items()} for number in range(3)}
    size = sum(value.numel() * value.element_size() for part in state.values() for value in part.values()) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        kept, alone = StateFiles(folder=Path(folder), name="last", best="best"), Path(folder) / "plain.pt"
        ours, theirs = _turns(lambda: kept.save(state), lambda: torch.save(state, alone), device)
        label = f"saving a state of {size:.0f} MB"
        yield _figure(label, ours, theirs, bar=None, device=device, theirs_is="torch.save without a flush", each=1)
        newest = Path(folder) / "last.pt"
        ours, theirs = _turns(
            lambda: state_files.load_state(newest), lambda: torch.load(newest, weights_only=True), device
        )
        label = f"loading a state of {size:.0f} MB"
        yield _figure(label, ours, theirs, bar=None, device=device, theirs_is="torch.load without checksums", each=1)


def _stepping(method: str, settings: dict[str, Any]) -> Callable[[], None]:
    """A function that takes some steps, always on the same batch."""
    runtime, entry = runtimes.start(), METHODS[method]
    config = BackboneConfig(name="resnet18", stem="standard")
    spec = backbones.make_spec(config, in_chans=3, image_size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
    module = entry.module(pretrained.scratch(spec, seed=0), entry.config(**settings)).train()
    groups = parameter_groups(module, learning_rate=1e-4, weight_decay=1e-4)
    steps = Steps(
        module,
        groups,
        TrainingPlan(phase=method, epochs=1, seed=0, optimizer=OptimizerConfig()),
        num_steps=10**6,
        higher_is_better=True,
        runtime=runtime,
    )
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        images=torch.rand(BATCH, 3, SIZE, SIZE, generator=generator).to(runtime.device),
        labels=torch.full((BATCH,), -1, device=runtime.device),
        keys=torch.arange(BATCH, device=runtime.device),
    )

    def take() -> None:
        for _ in range(STEPS):
            steps.take(batch, lambda: (False, False), False)

    return take


@contextlib.contextmanager
def _unguarded() -> Iterator[None]:
    """Keep nothing, look at no loss and no gradient, and never wait."""
    fine = Consensus(finite=True, stop=False, due=False)
    with (
        mock.patch.multiple(Skips, keep=mock.DEFAULT, undo=mock.DEFAULT),
        mock.patch.multiple(Flag, add=mock.DEFAULT, clear=mock.DEFAULT),
        mock.patch.object(Snapshot, "take"),
        mock.patch.object(stepper, "agree", return_value=fine),
    ):
        yield


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    runtimes.start(deterministic=True)
    try:
        yield
    finally:
        runtimes.start()


def _within(around: Callable[[], Any], function: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        with around():
            function()

    return call


def _turns(ours: Callable[[], object], theirs: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds of both sides in the best of their turns, which alternate."""
    best = [float("inf"), float("inf")]
    for _ in range(TURNS):
        for side, function in enumerate((ours, theirs)):
            begun = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best[side] = min(best[side], time.perf_counter() - begun)
    return best[0], best[1]


def _figure(
    name: str, ours: float, theirs: float, *, bar: float | None, device: torch.device, theirs_is: str, each: int
) -> dict[str, Any]:
    return {
        "name": name,
        "ratio": round(theirs / ours, 3),
        "bar": bar,
        "ours": round(ours / each, 4),
        "theirs": round(theirs / each, 4),
        "unit": f"seconds; theirs is {theirs_is}",
        "device": str(device),
    }
