"""Train with non-finite steps, checked every step or every few: for test_check_every.py.

`checks_worker.py FOLDER`, under torch.distributed.run, twice on the CPU: each process writes FOLDER/rank<n>.pt.
"""

import dataclasses
import re
import signal
import sys
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_transfer.data.loaders.loader import Loader
from ssl_transfer.data.sources import LoadingConfig, load
from ssl_transfer.engine.distributed.runtime import Runtime, start
from ssl_transfer.engine.errors import DivergedError, StoppedError
from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig, parameter_groups
from ssl_transfer.engine.runs.checkpoint_files import StateFiles
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig
from ssl_transfer.engine.training import nonfinite
from ssl_transfer.engine.training.checkpointing import State
from ssl_transfer.engine.training.early_stopping import StoppingConfig, Watched
from ssl_transfer.engine.training.loop import train
from ssl_transfer.engine.training.objective import Batch, Objective, Output
from ssl_transfer.engine.training.training_settings import Saving, TrainingPlan
from ssl_transfer.engine.training.validation import Validation
from ssl_transfer.methods import METHODS
from ssl_transfer.models import backbones, pretrained
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.models.heads import HeadConfig, make_head
from ssl_transfer.objectives.supervised import Supervised, SupervisedConfig

BATCH_SIZE, STEPS_AN_EPOCH, EPOCHS = 8, 6, 3
CLOCKS = ("images_per_second", "seconds", "energy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Choose the steps, from 1, at which something happens."""

    name: str = "supervised"
    """supervised: plateau schedule, early stopping, moving average, micro-batches; clipped: the same with clipping;
    moco: queue, momentum encoder, moving average."""
    losses: Set[int] = frozenset()
    """Steps with a loss that is not a number, on the last process."""
    gradients: Set[int] = frozenset()
    """Steps with a finite loss and an infinite gradient."""
    due: Set[int] = frozenset()
    """Steps at which the clock of the last process says that a state is due."""
    signal: int = 0
    """Step in which the last process gets a signal; afterwards the training is started again. 0: none."""
    skip_limit: int = 10


class Events:
    """Spoil an objective at the steps of a case, found by the random keys of their batches."""

    def __init__(self, case: Case, objective: Objective, loader: Loader, runtime: Runtime) -> None:
        self.step, self.signalled = 0, False
        self._case, self._runtime = case, runtime
        self._here = runtime.process_index == runtime.num_processes - 1
        self._steps = {
            int(key): epoch * STEPS_AN_EPOCH + number
            for epoch in range(EPOCHS)
            for number, batch in enumerate(loader.epoch(epoch), start=1)
            for key in batch.keys
        }
        self._parameter = next(one for one in objective.parameters() if one.requires_grad)
        self._plain = objective.forward
        objective.forward = self.forward  # type: ignore[method-assign]

    def forward(self, batch: Batch) -> Output:
        self.step = self._steps[int(batch.keys[0])]
        if self.step == self._case.signal and self._here and not self.signalled:
            self.signalled = True
            signal.raise_signal(signal.SIGUSR1)
        if self.step in self._case.losses and self._here:
            batch = batch._replace(images=batch.images * float("nan"))
        output = self._plain(batch)
        if self.step in self._case.gradients:
            output = output._replace(loss=output.loss + _Exploding.apply(self._parameter))
        return output

    def due(self) -> bool:
        return self._here and self.step in self._case.due


class _Exploding(torch.autograd.Function):
    """Return 0, with a gradient that has one infinite element."""

    @staticmethod
    def forward(context: Any, parameter: Tensor) -> Tensor:
        context.shape = parameter.shape
        return parameter.new_zeros(())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        exploded = gradient.new_zeros(context.shape)
        exploded.view(-1)[0] = float("inf")
        return exploded


class Looks:
    """Record the loss of every seventh step, where a window of five is cut short."""

    every = 7

    def __init__(self) -> None:
        self.found: list[tuple[int, float]] = []

    def look(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        if "loss" in values:
            self.found.append((step, values["loss"]))
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.found = list(state["found"])


def outcome(case: Case, every: int, folder: Path, runtime: Runtime) -> dict[str, Any]:
    """Train with a check every so many steps, and return all that the training leaves."""
    before, nonfinite.CHECK_EVERY_ON_CPU = nonfinite.CHECK_EVERY_ON_CPU, every
    plain_due, messages, error = State.due, list[str](), ""
    handler = signal.signal(signal.SIGUSR1, _stop)
    said = runtime.warn
    object.__setattr__(runtime, "warn", messages.append)
    try:
        for start_number in range(2 if case.signal else 1):
            objective, loader, optimizer = _made(case, runtime)
            events = Events(case, objective, loader, runtime)
            events.signalled = start_number > 0
            State.due = property(lambda _, events=events: events.due())  # type: ignore[assignment,method-assign,misc]
            try:
                summary, looks = _trained(case, objective, loader, optimizer, folder, runtime)
            except DivergedError as raised:
                error = str(raised)
            except StoppedError:
                continue
    finally:
        nonfinite.CHECK_EVERY_ON_CPU = before
        State.due = plain_due  # type: ignore[method-assign]
        object.__setattr__(runtime, "warn", said)
        signal.signal(signal.SIGUSR1, handler)
    states = {} if error else torch.load(folder / "phase.pt", weights_only=True)
    log = read_lines(folder / "metrics.jsonl")
    return {
        "weights": {name: value.clone() for name, value in objective.state_dict().items()},
        "state": {name: value for name, value in states.items() if name not in CLOCKS},
        "log": [{key: value for key, value in line.items() if key not in CLOCKS} for line in log],
        "messages": [line for line in messages if "asked to stop" not in line],
        "stops": [line for line in messages if "asked to stop" in line],
        "error": error.replace(str(folder), "FOLDER"),
        "looks": [] if error else looks.found,
        "summary": "" if error else re.sub(r"(seconds|peak_memory_mb|energy_joules)=[^,)]*", "", str(summary)),
    }


def _stop(*_: object) -> None:
    raise StoppedError(signal.SIGUSR1)


def _made(case: Case, runtime: Runtime) -> tuple[Objective, Loader, OptimizerConfig]:
    dataset = load("digits", image_size=16, config=LoadingConfig())
    config = BackboneConfig(
        name="resnet10t",
        stem="standard",
        arguments=("stem_type=", "stem_width=8", "channels=(8,8,16,16)", "zero_init_last=False"),
    )
    torch.manual_seed(0)
    spec = backbones.make_spec(config, in_chans=1, image_size=16, mean=(0.5,), std=(0.25,))
    backbone, shared = pretrained.scratch(spec, seed=0), {"ema_decay": 0.6, "skip_limit": case.skip_limit}
    indices = dataset.splits["train"][: BATCH_SIZE * STEPS_AN_EPOCH]
    loader = Loader(dataset, indices, batch_size=BATCH_SIZE, seed=0, runtime=runtime, labelled=case.name != "moco")
    if case.name == "moco":
        entry = METHODS["moco"]
        settings = entry.config(hidden_width=32, output_width=16, queue_size=20)  # type: ignore[call-arg]
        return entry.module(backbone, settings), loader, OptimizerConfig(warmup_steps=3, **shared)  # type: ignore[arg-type]
    objective = Supervised(backbone, make_head(HeadConfig(), backbone, 10), SupervisedConfig(), num_classes=10)
    objective.set_trained("all")
    plateau = {"schedule": "plateau", "plateau_factor": 0.5, "plateau_patience": 0, "warmup_steps": 3, "accumulate": 2}
    clip = 1.0 if case.name == "clipped" else 0.0
    return objective, loader, OptimizerConfig(clip_norm=clip, **plateau, **shared)  # type: ignore[arg-type]


def _trained(
    case: Case, objective: Objective, loader: Loader, optimizer: OptimizerConfig, folder: Path, runtime: Runtime
) -> tuple[Any, Looks]:
    looks, metrics = Looks(), folder / "metrics.jsonl"
    folder.mkdir(parents=True, exist_ok=True)

    def evaluate() -> dict[str, float]:
        # It must follow the weights; rank 0's value decides on all processes.
        sums = [float(one.detach().double().abs().sum()) for one in objective.parameters()]
        return {"log_loss": sum(sums)}

    watched = None if case.name == "moco" else Watched(metric="log_loss", higher_is_better=False)
    summary = train(
        objective,
        parameter_groups(objective, learning_rate=1e-2, weight_decay=1e-2),
        loader,
        plan=TrainingPlan(phase="phase", epochs=EPOCHS, seed=0, optimizer=optimizer),
        saving=Saving(
            tracker=Tracker(metrics, TrackingConfig(), runtime, settings={}, group="", job_type=""),
            metrics_path=metrics,
            states=StateFiles(folder=folder, name="phase", best="phase.best"),
        ),
        runtime=runtime,
        validation=Validation(
            evaluate=evaluate, watched=watched, stopping=StoppingConfig(patience=0 if watched is None else 3)
        ),
        monitor=looks,
    )
    return summary, looks


SHARED = (
    Case(losses={1, 9, 12}, gradients={4}, due={3, 8}),
    Case(name="moco", losses={2, 3}, due={10}),
    Case(name="clipped", losses={8}, signal=10),
    Case(losses={3, 4, 5}, skip_limit=2),
)
"""Cases of two processes."""


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    runtime = start()
    held = {
        (number, every): outcome(case, every, folder / f"{number}-{every}", runtime)
        for number, case in enumerate(SHARED)
        for every in (1, 5)
    }
    torch.save(held, folder / f"rank{runtime.process_index}.pt")
    runtime.wait()


if __name__ == "__main__":
    main()
