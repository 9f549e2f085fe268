"""The collapse alarm: raised by a constant encoder within a few hundred steps, by nothing else, and once."""

import dataclasses
import math

import pytest
import torch

from ssl_transfer.data import sources
from ssl_transfer.data.loaders.loader import Loader
from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig, parameter_groups
from ssl_transfer.engine.tracking.tracker import Tracker, TrackingConfig
from ssl_transfer.engine.training.loop import train
from ssl_transfer.engine.training.training_settings import Saving, TrainingPlan
from ssl_transfer.evaluation.features import collapse
from ssl_transfer.evaluation.features.collapse import EVERY, GRACE, LOOKS, CollapseAlarm
from ssl_transfer.methods import METHODS
from ssl_transfer.stages.pretrain import monitoring

SOON = GRACE + LOOKS * EVERY
"""Steps within which a training without warm-up that is collapsed from the start must say so."""


def make_alarm(said, *, equal_loss=None, warmup_steps=0):
    return CollapseAlarm(
        "simclr", warmup_steps=warmup_steps, equal_loss=equal_loss, advice="something", warn=said.append
    )


def looks(alarm, values, *, first=EVERY, metric="feature_deviation"):
    """The rows of successive looks, by step."""
    steps = range(first, first + EVERY * len(values), EVERY)
    return {step: row for step, value in zip(steps, values, strict=True) if (row := alarm.look(step, {metric: value}))}


def test_a_collapse_is_said_once_with_step_and_values():
    said = []
    alarm = make_alarm(said)
    rows = looks(alarm, [0.001] * 20)
    assert rows == {SOON: {"feature_deviation": 0.001}}
    assert alarm.collapsed == {"step": SOON, "feature_deviation": 0.001}
    (message,) = said
    assert all(part in message for part in ("warning: simclr", f"step {SOON}", "feature_deviation is 0.001", "Try som"))


def test_a_collapse_in_the_middle_is_found_within_three_looks():
    alarm = make_alarm([])
    rows = looks(alarm, [0.5] * 30 + [0.001] * 10)
    assert list(rows) == [EVERY * 33]


def test_one_odd_batch_and_a_slow_start_raise_nothing():
    said = []
    alarm = make_alarm(said, warmup_steps=300)
    slow = [0.0] * ((300 + GRACE) // EVERY)
    odd = [0.001, 0.001, 0.2] * 10
    assert looks(alarm, [*slow, *odd]) == {}
    assert not said
    assert alarm.collapsed == {}


def test_an_evaluation_of_rank_one_is_enough():
    alarm = make_alarm([])
    assert alarm.look(GRACE, {"effective_rank": 1.0}) == {}
    assert alarm.look(500, {"effective_rank": 2.5, "feature_deviation": 0.3}) == {}
    found = alarm.look(600, {"effective_rank": 1.02, "feature_deviation": 0.2, "knn_accuracy": 0.1})
    assert found == {"effective_rank": 1.02, "feature_deviation": 0.2}


def test_the_loss_of_equal_representations():
    equal = METHODS["simclr"].equal_loss(128)
    assert equal == pytest.approx(math.log(255))
    assert looks(make_alarm([], equal_loss=equal), [equal * 1.001] * 10, metric="loss") != {}
    assert looks(make_alarm([], equal_loss=equal), [equal * 0.99] * 10, metric="loss") == {}
    assert looks(make_alarm([]), [equal] * 10, metric="loss") == {}


def test_simclrs_loss_is_that_when_all_projections_are_equal(make_backbone, make_batch):
    entry = METHODS["simclr"]
    method = entry.module(make_backbone(), entry.config())
    method.projector.register_forward_hook(lambda _module, _given, output: torch.ones_like(output))
    assert float(method(make_batch(16)).loss) == pytest.approx(entry.equal_loss(16), rel=1e-5)


def test_the_state_goes_on_counting():
    plain, stopped = make_alarm([]), make_alarm([])
    looks(plain, [0.001] * 4)
    stopped.load_state_dict(plain.state_dict())
    assert plain.look(SOON, {"feature_deviation": 0.001}) == stopped.look(SOON, {"feature_deviation": 0.001}) != {}
    again = make_alarm(said := [])
    again.load_state_dict(plain.state_dict())
    assert again.look(SOON + EVERY, {"feature_deviation": 0.001}) == {}
    assert again.collapsed == plain.collapsed
    assert not said


@pytest.fixture
def pretrain_under_alarm(runtime, make_backbone, tmp_path, monkeypatch):
    """`pretrain_under_alarm("simclr", steps=40)`: the alarm and the log of so many steps on digits.

    The alarm looks after every fifth step, from the twentieth on. With `constant`, whatever the backbone is shown, its
    features are the same.
    """
    monkeypatch.setattr(CollapseAlarm, "every", 5)
    monkeypatch.setattr(collapse, "GRACE", 10)
    dataset = sources.load("digits", image_size=16, config=sources.LoadingConfig())

    def call(name, *, steps, constant=False, change=lambda _objective: None, learning_rate=1e-3):
        entry = METHODS[name]
        backbone = make_backbone("transformer" if entry.backbones == "vit" else "convolutional", channels=1)
        if constant:
            last = backbone.model.norm if entry.backbones == "vit" else backbone.model.global_pool
            last.register_forward_hook(lambda _module, _given, output: 0.0 * output + 1.0)
        torch.manual_seed(0)
        objective = entry.module(backbone, entry.config())
        change(objective)
        loader = Loader(dataset, dataset.pool, batch_size=16, seed=0, runtime=runtime, labelled=False)
        loader.steps_per_epoch = steps
        alarm = monitoring.alarm(name, entry, batch_size=16, warmup_steps=10, runtime=runtime)
        optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=10)
        tracker = Tracker(tmp_path / "metrics.jsonl", TrackingConfig(), runtime, settings={}, group="", job_type="")
        train(
            objective,
            parameter_groups(objective, learning_rate=learning_rate, weight_decay=1e-4),
            loader,
            plan=TrainingPlan(phase=name, epochs=1, seed=0, optimizer=optimizer),
            saving=Saving(tracker=tracker),
            runtime=runtime,
            monitor=alarm,
        )
        return alarm, read_lines(tmp_path / "metrics.jsonl")

    return call


@pytest.mark.parametrize("name", METHODS)
def test_a_constant_encoder_raises_it_and_the_training_goes_on(pretrain_under_alarm, name, capsys):
    alarm, log = pretrain_under_alarm(name, steps=35, constant=True)
    assert alarm.collapsed["step"] == 35
    assert alarm.collapsed["feature_deviation"] < 1e-4
    (row,) = [line for line in log if line["split"] == "alarm"]
    assert (row["phase"], row["epoch"], row["step"]) == (name, 1, 35)
    assert log[-1]["split"] == "train"
    assert f"warning: {name}: the representation has collapsed at step 35" in capsys.readouterr().err


@pytest.mark.parametrize("name", METHODS)
def test_a_healthy_training_never_raises_it(pretrain_under_alarm, name, capsys):
    alarm, log = pretrain_under_alarm(name, steps=35)
    assert alarm.collapsed == {}
    assert [line["split"] for line in log] == ["train"]
    assert log[0]["feature_deviation"] > 5 * collapse.LEAST_DEVIATION
    assert capsys.readouterr().err == ""


def test_byol_without_predictor_and_momentum_raises_it(pretrain_under_alarm):
    """The collapse that its authors describe: the outputs become equal, while the backbone's features need not."""

    def without(objective):
        objective.predictor = torch.nn.Identity()
        objective.config = dataclasses.replace(objective.config, momentum=0.0)

    alarm, log = pretrain_under_alarm("byol", steps=120, change=without, learning_rate=1e-2)
    assert alarm.collapsed["output_deviation"] < collapse.LEAST_OUTPUT_DEVIATION
    assert alarm.collapsed["feature_deviation"] > 5 * collapse.LEAST_DEVIATION
    assert log[-1]["loss"] < 1.0


def test_a_rank_far_below_its_best_raises_it():
    alarm = make_alarm([])
    assert looks(alarm, [20.0, 41.0, 37.0, 12.0], first=500, metric="effective_rank") == {}
    assert alarm.look(1000, {"effective_rank": 9.0}) == {"effective_rank": 9.0}


def test_a_resumed_training_has_the_alarm_of_one_that_never_stopped(make_supervised, train_phase, tmp_path):
    """The alarm is raised in the second epoch by looks of both; the training stops behind the first."""

    class Scripted(CollapseAlarm):
        every = 1

        def look(self, step, values):
            return super().look(step + GRACE, {"feature_deviation": 0.0 * values["loss"]}) if "loss" in values else {}

    def trained(folder, epochs):
        alarm = Scripted("method", warmup_steps=0, equal_loss=None, advice="it", warn=lambda _message: None)
        train_phase(
            make_supervised(),
            OptimizerConfig(schedule="constant"),
            folder=folder,
            epochs=epochs,
            saved=True,
            monitor=alarm,
        )
        rows = read_lines(folder / "metrics.jsonl")
        return alarm.state_dict(), [line for line in rows if line["split"] == "alarm"]

    whole = trained(tmp_path / "whole", 2)
    assert whole[0]["collapsed"]["step"] == 3 + GRACE
    assert [row["step"] for row in whole[1]] == [3]
    assert trained(tmp_path / "parts", 1)[1] == []
    assert trained(tmp_path / "parts", 2) == whole
