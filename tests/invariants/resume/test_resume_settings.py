"""With plateau, stopping, average, micro-batches and clipping all on, a killed training ends as one that was not.

Real validation: random pixels with random labels, so that the log-loss soon rises and the training stops early.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.checkpointing import State
from ssl_transfer.engine.training.early_stopping import StoppingConfig, Watched
from ssl_transfer.engine.training.loop import Summary
from ssl_transfer.objectives.supervised import Supervised

EPOCHS, STEPS_AN_EPOCH = 12, 2
OPTIMIZER = OptimizerConfig(
    learning_rate=1e-2,
    warmup_steps=3,
    schedule="plateau",
    plateau_factor=0.5,
    plateau_patience=0,
    accumulate=3,
    ema_decay=0.6,
    clip_norm=1.0,
)
SETTINGS: dict[str, Any] = {
    "watched": Watched(metric="log_loss", higher_is_better=False),
    "stopping": StoppingConfig(patience=3),
    "epochs": EPOCHS,
    "saved": True,
}


def outcome(summary: Summary) -> tuple[Any, ...]:
    return summary.steps, summary.images_seen, summary.stopped_early, summary.best_epoch


def same(first: Any, second: Any) -> bool:
    """Nested containers with equal keys, numbers and bits."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def state_of(folder: Path) -> dict[str, Any]:
    state = torch.load(folder / "phase.pt", weights_only=True)
    del state["seconds"]
    return state


@pytest.fixture
def whole(make_supervised: Callable, train_phase: Callable, tmp_path: Path) -> tuple[Supervised, Summary, Path]:
    """Train without a stop: the best epoch lies behind some and before others, and the rate has fallen."""
    objective, folder = make_supervised(), tmp_path / "whole"
    summary = train_phase(objective, OPTIMIZER, folder=folder, **SETTINGS)
    assert summary.stopped_early
    assert 2 <= summary.best_epoch <= EPOCHS - 4
    assert summary.steps == STEPS_AN_EPOCH * (summary.best_epoch + 3) < STEPS_AN_EPOCH * EPOCHS
    state = state_of(folder)
    assert state["rates"]["_last_lr"][0] < 1.0
    assert len(state["average"]["averages"]) > 20
    assert state["stopper"]["waited"] == 3
    return objective, summary, folder


# After the first epoch, at the best one, and in each that brings no improvement.
@pytest.mark.parametrize("after", [1, "best", "best + 1", "best + 2"])
def test_killed_and_started_again(
    after: int | str,
    whole: tuple,
    make_supervised: Callable,
    train_phase: Callable,
    log_of: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objective, summary, folder = whole
    epoch = after if isinstance(after, int) else eval(after, {"best": summary.best_epoch})  # noqa: S307
    monkeypatch.setattr(State, "due", True)
    steps = 0

    def after_step(progress: float) -> None:
        nonlocal steps
        steps += 1
        if steps == STEPS_AN_EPOCH * epoch + 1:
            raise KeyboardInterrupt

    killed, stopped = make_supervised(), tmp_path / "stopped"
    killed.after_step = after_step
    with pytest.raises(KeyboardInterrupt):
        train_phase(killed, OPTIMIZER, folder=stopped, **SETTINGS)
    assert state_of(stopped)["step"] == STEPS_AN_EPOCH * epoch
    # Other weights to start from: all that counts is in the state.
    resumed = make_supervised(seed=1)
    assert outcome(train_phase(resumed, OPTIMIZER, folder=stopped, **SETTINGS)) == outcome(summary)
    assert same(resumed.state_dict(), objective.state_dict())
    assert same(state_of(stopped), state_of(folder))
    assert log_of(stopped) == log_of(folder)


def test_stopped_stays_stopped(
    whole: tuple, make_supervised: Callable, train_phase: Callable, log_of: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    objective, summary, folder = whole
    log, state = log_of(folder), state_of(folder)
    assert [line["step"] for line in log if line["split"] == "stopping"] == [summary.steps]
    again = make_supervised(seed=1)

    def refuse(progress: float) -> None:
        raise AssertionError("it went on")

    again.after_step = refuse
    capsys.readouterr()
    assert outcome(train_phase(again, OPTIMIZER, folder=folder, **SETTINGS)) == outcome(summary)
    assert "going on" not in capsys.readouterr().out
    assert same(again.state_dict(), objective.state_dict())
    assert log_of(folder) == log
    assert same(state_of(folder), state)


@pytest.mark.parametrize(
    "change",
    [{"schedule": "constant"}, {"accumulate": 1}, {"ema_decay": 0.0}, {"clip_norm": 0.0}],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_matters(change: dict, whole: tuple, make_supervised: Callable, train_phase: Callable) -> None:
    """The tests above can fail: without any one of the settings other weights come out."""
    plain = {name: getattr(OPTIMIZER, name) for name in OPTIMIZER.__dataclass_fields__} | change
    if plain["schedule"] == "constant":
        del plain["plateau_factor"], plain["plateau_patience"]
    other = make_supervised()
    train_phase(other, OptimizerConfig(**plain), **SETTINGS | {"saved": False})
    assert not same(other.state_dict(), whole[0].state_dict())


def test_a_state_of_another_version_is_refused(whole: tuple, make_supervised: Callable, train_phase: Callable) -> None:
    folder = whole[2]
    state = torch.load(folder / "phase.pt", weights_only=True)
    torch.save({name: value for name, value in state.items() if name != "average"}, folder / "phase.pt")
    before = copy.deepcopy(state["objective"])
    with pytest.raises(InputError, match="holds no state of average"):
        train_phase(make_supervised(), OPTIMIZER, folder=folder, **SETTINGS)
    assert same(before, state["objective"])
