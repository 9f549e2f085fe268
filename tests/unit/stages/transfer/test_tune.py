"""The trials of a plan: what is tried, what is chosen, and that nothing that has finished is done again."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch.nn.functional as F

from ssl_transfer.engine.errors import DivergedError, InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.evaluation.comparison.write_tables import rows_of
from ssl_transfer.stages.transfer import plan_training
from ssl_transfer.stages.transfer import tune as tuning
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe

RECIPE = TransferRecipe()


def tried(recipe, count):
    return tuning.trials(recipe, recipe.phases(steps_per_epoch=10), count)


def test_the_first_trial_is_the_plan():
    for plan in (("fine-tune",), ("full",), ("head", "last:1 rate=1e-4", "all")):
        recipe = replace(RECIPE, plan=plan)
        (first,) = tried(recipe, 1)
        assert first.phases == recipe.phases(steps_per_epoch=10)
        assert first.weight_decay == recipe.optimizer.weight_decay


def test_more_trials_begin_with_those_of_fewer():
    assert tried(RECIPE, 11)[:5] == tried(RECIPE, 5)


def test_values_lie_within_a_factor_of_ten_and_cover_it():
    found = tried(RECIPE, 64)
    assert len(found) == 64
    head, finetune = RECIPE.phases(steps_per_epoch=10)
    ratios = {
        "head": [trial.phases[0].learning_rate / head.learning_rate for trial in found],
        "finetune": [trial.phases[1].learning_rate / finetune.learning_rate for trial in found],
        "decay": [trial.weight_decay / RECIPE.optimizer.weight_decay for trial in found],
    }
    for name, values in ratios.items():
        logs = sorted(math.log10(value) for value in values)
        assert -1.0 <= logs[0] < -0.9, name
        assert 0.8 < logs[-1] <= 1.0, name
    # Log-uniform: half of the values lie above the plan's own. Finetuning rates are cut at the head's.
    for name in ("head", "decay"):
        assert sum(value > 1.0 for value in ratios[name]) in (31, 32, 33)
    # All else of the phases is the plan's.
    for trial in found:
        assert [replace(phase, learning_rate=0.0) for phase in trial.phases] == [
            replace(phase, learning_rate=0.0) for phase in (head, finetune)
        ]


@pytest.mark.parametrize("plan", [("fine-tune",), ("gradual",), ("full",), ("head", "all rate=1e-2")])
def test_nothing_learns_faster_than_the_head(plan):
    recipe = replace(RECIPE, plan=plan)
    for trial in tried(recipe, 32):
        heads = [phase.learning_rate for phase in trial.phases if phase.trained == "head"]
        limit = min(heads, default=recipe.optimizer.learning_rate)
        assert all(phase.learning_rate <= limit for phase in trial.phases)


def test_no_weight_decay_stays_none():
    recipe = replace(RECIPE, optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=0.0))
    assert {trial.weight_decay for trial in tried(recipe, 8)} == {0.0}


@pytest.fixture
def config(quick):
    """A transfer run of three trials on `make_dataset`'s images, in `tmp_path / "run"`."""
    return replace(quick, tune=3, keep_model=False)


@pytest.fixture
def trained_phases(monkeypatch):
    """The learning rates of all phases that are trained from now on."""
    rates, plain = [], plan_training.run_phase

    def traced(training, phase, **settings):
        rates.append(phase.learning_rate)
        return plain(training, phase, **settings)

    monkeypatch.setattr(plan_training, "run_phase", traced)
    return rates


def test_a_trial_is_the_run_of_its_values(config, run, measured):
    """Each trial begins as if it were the only one, and the result is that of the chosen one."""
    result = run(config)
    assert len(result["tuned"]["trials"]) == 3
    for number, trial in enumerate(tried(config, 3)):
        plan = [f"{phase.trained} rate={phase.learning_rate!r}" for phase in trial.phases]
        alone = run(
            replace(
                config,
                plan=tuple(plan),
                optimizer=replace(config.optimizer, weight_decay=trial.weight_decay),
                tune=1,
                output=config.output.with_name(f"alone-{number}"),
            )
        )
        found = result["tuned"]["trials"][number]
        assert found["validation"] == {name: phase["validation"] for name, phase in alone["phases"].items()}
        assert found["preferred"] == alone["chosen"]
        assert found["weight_decay"] == trial.weight_decay
        if number == result["tuned"]["chosen"]:
            assert measured(result["phases"]) == measured(alone["phases"])
    values = {str(trial["validation"]) for trial in result["tuned"]["trials"]}
    assert len(values) == 3
    scores = [plan_training.preference(one["validation"][one["preferred"]]) for one in result["tuned"]["trials"]]
    assert scores[result["tuned"]["chosen"]] == max(scores)


def test_the_runs_log_is_that_of_the_chosen_trial(config, run):
    result = run(config)
    lines = (config.output / "metrics.jsonl").read_text().splitlines()
    chosen = config.output / "trials" / str(result["tuned"]["chosen"]) / "metrics.jsonl"
    # Before them the start, behind them the test.
    assert lines[1:-1] == chosen.read_text().splitlines()
    assert json.loads(lines[0])["step"] == 0
    assert json.loads(lines[-1])["split"] == "test"
    assert list(config.output.rglob("*.pt")) == []


def test_goes_on_where_it_was_killed(config, run, trained_phases, monkeypatch, measured):
    """Killed within a trial: those before it are not done again, it goes on, and the result is the same."""
    whole = run(replace(config, output=config.output.with_name("whole")))
    assert len(trained_phases) == 6
    trained_phases.clear()
    plain = plan_training.run_phase

    def killed(training, phase, **settings):
        if len(trained_phases) == 3:
            raise KeyboardInterrupt
        return plain(training, phase, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(plan_training, "run_phase", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    # The head of the second trial was trained, and its state is there.
    assert (config.output / "trials" / "0" / "trial.json").is_file()
    assert not (config.output / "trials" / "1" / "trial.json").exists()
    before = (config.output / "trials" / "1" / "metrics.jsonl").read_text()
    trained_phases.clear()
    result = run(config)
    assert measured(result) == measured(whole)
    assert (config.output / "trials" / "1" / "metrics.jsonl").read_text().startswith(before)
    # Those of two trials, and the first once more where it was chosen: it only finds its states.
    assert len(trained_phases) == (6 if result["tuned"]["chosen"] == 0 else 4)
    logs = [(folder / "metrics.jsonl").read_text() for folder in (config.output, config.output.with_name("whole"))]
    assert [len(log.splitlines()) for log in logs] == [len(logs[0].splitlines())] * 2
    assert run(config) == result


@pytest.fixture
def run_to_the_choice(run, monkeypatch):
    """Run until all trials have finished, and no further."""

    def killed(*_):
        raise KeyboardInterrupt

    def start(config):
        with monkeypatch.context() as patched:
            patched.setattr("ssl_transfer.stages.transfer.train_and_test.replay", killed)
            with pytest.raises(KeyboardInterrupt):
                run(config)

    return start


def test_a_changed_trial_is_refused(config, run, run_to_the_choice, measured):
    """A digit in the record of a finished trial is no validation result; the remedy of the message works."""
    whole = run(config)
    other = replace(config, output=config.output.with_name("other"))
    run_to_the_choice(other)
    trial = other.output / "trials" / "0" / "trial.json"
    trial.write_text(trial.read_text().replace('"accuracy": 0.', '"accuracy": 1.', 1))
    with pytest.raises(InputError, match=f"{trial}: damaged .*Remove it"):
        run(other)
    trial.unlink()
    assert measured(run(other)) == measured(whole)


@pytest.mark.parametrize("chosen", [0, 2])
def test_weights_of_a_trial_that_finished_before_are_found(chosen, config, run, run_to_the_choice, monkeypatch):
    """Killed when all trials had finished: none is trained again, whichever is chosen."""
    plain = tuning._describe

    def preferred(trial, trained):
        report = copy.deepcopy(plain(trial, trained))
        number = sum(1 for path in (config.output / "trials").iterdir() if (path / "trial.json").is_file())
        for phase in report["validation"].values():
            phase["accuracy"] = 1.0 if number == chosen else 0.5
        return report

    monkeypatch.setattr(tuning, "_describe", preferred)

    run_to_the_choice(config)
    states = {path.parent.parent.name for path in config.output.rglob("*.pt")}
    assert states == {str(chosen)}
    log = (config.output / "trials" / str(chosen) / "metrics.jsonl").read_text()
    result = run(config)
    assert result["tuned"]["chosen"] == chosen
    found = {name: phase["validation"]["log_loss"] for name, phase in result["phases"].items()}
    trial = result["tuned"]["trials"][chosen]["validation"]
    assert found == {name: validation["log_loss"] for name, validation in trial.items()}
    # No step was taken: a step leaves a line.
    assert (config.output / "trials" / str(chosen) / "metrics.jsonl").read_text() == log


def test_a_trial_that_diverges_is_out(config, run, monkeypatch):
    plain = plan_training.run_phase

    def diverging(training, phase, **settings):
        if phase.learning_rate > config.optimizer.learning_rate:
            raise DivergedError("the loss is nan")
        return plain(training, phase, **settings)

    monkeypatch.setattr(plan_training, "run_phase", diverging)
    result = run(config)
    # The second trial is the one with the larger rate.
    assert ["diverged" in trial for trial in result["tuned"]["trials"]] == [False, True, False]
    assert result["tuned"]["chosen"] != 1
    key = {"arm": "scratch", "backbone": "net", "labels": "all", "seed": 0}
    assert {row.value for row in rows_of(key, result, None) if row.metric == "num_trials"} == {3.0}


def test_all_trials_diverge(config, run, monkeypatch):
    def diverging(training, phase, **settings):
        raise DivergedError("finetune: the loss is nan")

    monkeypatch.setattr(plan_training, "run_phase", diverging)
    with pytest.raises(InputError, match=r"--tune 3: none of the trials can be used\. The first: finetune: the loss"):
        run(config)


def test_a_loss_that_is_not_finite_is_known_as_such(config, run, monkeypatch):
    plain = F.log_softmax
    # The log-loss of evaluation is another function.
    monkeypatch.setattr(F, "log_softmax", lambda logits, dim: plain(logits, dim=dim) * math.nan)
    with pytest.raises(InputError, match=r"The first: head: (no loss of the last epoch|the loss of step)"):
        run(config)


def test_rows_say_what_was_chosen(config, run):
    result = run(config)
    key = {"arm": "scratch", "backbone": "net", "labels": "all", "seed": 0}
    rows = rows_of(key, result, None)
    trial = result["tuned"]["trials"][result["tuned"]["chosen"]]
    found = {(row.phase, row.metric): row.value for row in rows if row.metric.startswith("chosen_")}
    assert found == {
        ("head", "chosen_learning_rate"): trial["learning_rates"]["head"],
        ("finetune", "chosen_learning_rate"): trial["learning_rates"]["finetune"],
        ("chosen", "chosen_learning_rate"): trial["learning_rates"][result["chosen"]],
        ("chosen", "chosen_weight_decay"): trial["weight_decay"],
    }
    (seconds,) = (row.value for row in rows if row.metric == "transfer_seconds")
    assert seconds == sum(one["seconds"] for one in result["tuned"]["trials"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"tune": 0}, "--tune 0: it must be 1 or more"), ({"find_rate": True}, "--tune 3 would be ignored: --find-rate")],
)
def test_refused(settings, message, config, run):
    with pytest.raises(InputError, match=message):
        run(replace(config, **settings))
    assert not config.output.exists()
