"""Run several plans: equal to each plan alone, resumed to the bit, chosen by validation."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.early_stopping import Race, Watched
from ssl_transfer.evaluation.comparison.write_tables import curves_of, rows_of
from ssl_transfer.stages.transfer import plan_training
from ssl_transfer.stages.transfer.batch_norm import batch_norm_of
from ssl_transfer.stages.transfer.config import TransferConfig
from ssl_transfer.stages.transfer.plans.lines import PORTFOLIO
from ssl_transfer.stages.transfer.plans.racing import race_for
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe

KEY = {"arm": "scratch", "backbone": "net", "labels": "all", "seed": 0}


@pytest.fixture
def config(quick):
    """A transfer run of all plans on `make_dataset`'s images, in `tmp_path / "run"`."""
    return replace(quick, plans=("auto",))


def test_each_plan_is_that_plan_alone(config, run, measured):
    result = run(config)
    assert len(result["phases"]) == len(PORTFOLIO)
    assert not any("lost_race" in phase for phase in result["phases"].values())
    for name in PORTFOLIO:
        alone = run(replace(config, plans=(), plan=(name,), output=config.output.with_name(name)))
        last = list(alone["phases"])[-1]
        ours = result["phases"][{"feature-extraction": "head"}.get(name, name)]
        assert measured(ours) == measured(alone["phases"][last]), name


def test_a_plan_far_behind_ends_early(config, run, monkeypatch, measured):
    """End it at the first evaluation from three tenths of its epochs on; a second start takes no step more."""
    bound = Race(watched=Watched(metric="accuracy", higher_is_better=True), least=2.0, from_epoch=3)
    monkeypatch.setattr(plan_training, "race_for", lambda phase, *_: bound if phase.name == "full-fast" else None)
    config = replace(config, epochs=10, plans=("feature-extraction", "full-fast"))
    result = run(config)
    assert result["phases"]["full-fast"]["lost_race"]
    log = config.output / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert max(line["epoch"] for line in lines if line["phase"] == "full-fast" and line["split"] == "train") == 3
    (config.output / "result.json").unlink()
    before = log.read_text().count("full-fast")
    assert measured(run(config)) == measured(result)
    assert log.read_text().count("full-fast") == before


def test_early_stopping_is_no_lost_race(config, run, monkeypatch):
    bound = Race(watched=Watched(metric="accuracy", higher_is_better=True), least=-1.0, from_epoch=1)
    monkeypatch.setattr(plan_training, "race_for", lambda *_: bound)
    stopping = replace(config.stopping, patience=1, min_delta=100.0)
    result = run(replace(config, epochs=10, plans=("feature-extraction", "full-fast"), stopping=stopping))
    log = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    assert max(line["epoch"] for line in log if line["phase"] == "full-fast") < 10
    assert "lost_race" not in result["phases"]["full-fast"]


@pytest.mark.parametrize(
    ("best", "images", "least"), [(0.78, 100, 0.663), (0.68, 25, 0.416), (1.0, 25, 0.889), (0.0, 25, -0.111)]
)
def test_a_race_is_lost_two_standard_errors_behind(best, images, least):
    (phase,) = TransferRecipe(plan=("full",), epochs=10, finetune_steps=1).phases(steps_per_epoch=1)
    race = race_for(phase, {"a": {"validation": {"accuracy": best}}, "b": {"validation": {"accuracy": 0.0}}}, images)
    assert race.least == pytest.approx(least, abs=5e-4)
    assert race.from_epoch == 3
    assert race_for(phase, {}, images) is None


def test_validation_chooses(config, run):
    result = run(config)
    scores = {name: plan_training.preference(phase["validation"]) for name, phase in result["phases"].items()}
    assert result["path"][-1] == result["chosen"] == max(scores, key=scores.get)
    rows = rows_of(KEY, result, None)
    assert {row.phase: row.value for row in rows if row.metric == "chosen_share"} == {
        name: float(name == result["chosen"]) for name in result["phases"]
    }
    costs = [row.value for row in rows if row.metric == "transfer_seconds"]
    assert costs == [sum(phase["seconds"] for phase in result["phases"].values())]


def test_the_curves_are_those_of_the_chosen_plan(config, run):
    result = run(config)
    log = config.output / "metrics.jsonl"
    phases = {line["phase"] for line in curves_of(KEY, log, result["path"])}
    assert phases == set(result["path"])
    assert {line["phase"] for line in curves_of(KEY, log)} == set(result["phases"])
    steps = [line["step"] for line in curves_of(KEY, log) if line["phase"] == "probe" and line["metric"] == "accuracy"]
    assert steps == [0, 1]


@pytest.mark.parametrize("number", range(3))
def test_goes_on_where_it_was_killed(number, config, run, monkeypatch, measured):
    """Kill it before a phase: result, log and weights are those of an undisturbed run."""
    whole = replace(config, output=config.output.with_name("whole"))
    expected, plain, trained = run(whole), plan_training.run_phase, []

    def killed(training, phase, **settings):
        if len(trained) == number + 1:
            raise KeyboardInterrupt
        trained.append(phase.name)
        return plain(training, phase, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(plan_training, "run_phase", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert measured(run(config)) == measured(expected)
    logs = []
    for folder in (config.output, whole.output):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in one.items() if k not in ("images_per_second", "checksum")} for one in lines])
    assert logs[0] == logs[1]
    for name in ("backbone", "head"):
        ours, theirs = (load_file(one.output / name / f"{name}.safetensors") for one in (config, whole))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_the_average_lies_between_its_phases(config, run):
    """Take the mean of the weights after the head phase and after fine-tuning."""
    plan = ("probe", "all norm=frozen", "average")
    result = run(replace(config, plans=(), plan=plan, keep_model=False))
    assert list(result["phases"]) == ["probe", "finetune", "average"]
    assert result["phases"]["average"]["images_seen"] == 0
    losses = {name: phase["validation"]["log_loss"] for name, phase in result["phases"].items()}
    assert len(set(losses.values())) == 3


def test_tuning_goes_on_with_the_chosen_plan(config, run):
    result = run(replace(config, plans=("fine-tune-frozen", "full-fast"), tune=3, keep_model=False))
    first, *others = result["tuned"]["trials"]
    assert list(first["validation"]) == ["head", "fine-tune-frozen", "full-fast"]
    for trial in others:
        assert set(trial["validation"]) < set(first["validation"])
        assert list(trial["validation"])[-1] == first["preferred"] or first["preferred"] == "head"


def test_a_fitted_head_has_no_rates_to_tune(config, run):
    result = run(replace(config, plans=(), plan=("probe",), tune=3, keep_model=False))
    assert len(result["tuned"]["trials"]) == 1


def test_the_probe_needs_a_linear_head(config, run):
    with pytest.raises(InputError, match="linear head"):
        replace(config, head=replace(config.head, dropout=0.5))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"init": "scratch"}, "train"),
        ({"init": "imagenet"}, "frozen"),
        ({"init": "timm:resnet18.a1_in1k"}, "frozen"),
        ({"init": "imagenet", "plan": ("feature-extraction",)}, "train"),
        ({"init": "imagenet", "plan": ("head", "all norm=train")}, "train"),
    ],
)
def test_batch_norm_auto_follows_the_origin_of_the_weights(settings, expected, make_dataset):
    assert batch_norm_of(TransferConfig(**settings), None, make_dataset()) == expected
