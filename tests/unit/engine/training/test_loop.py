"""The loop's own settings: rates, stopping, micro-batches, moving average, clipping, phases."""

import copy
import itertools
from itertools import pairwise

import pytest
import torch

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.optimization.lr_schedules import warmup_cosine
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.early_stopping import StoppingConfig, Watched

LOSS = Watched(metric="log_loss", higher_is_better=False)
ACCURACY = Watched(metric="accuracy", higher_is_better=True)
SGD = OptimizerConfig(name="sgd", learning_rate=0.02, warmup_steps=2)


def scripted(losses):
    """An `evaluate` that answers these log-losses one after the other, and then the best: that of restored weights."""
    answers = itertools.chain(losses, itertools.repeat(min(losses)))
    return lambda: {"log_loss": next(answers), "accuracy": 0.5}


def lines(folder, split):
    records = read_lines(folder / "metrics.jsonl")
    return [record for record in records if record["split"] == split]


def same(first, second) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


def gradient_norm(optimizer) -> float:
    gradients = [one.grad for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def test_layer_decay_at_every_step(make_supervised, train_phase, before_steps):
    seen = []
    before_steps(lambda optimizer: seen.append([group["lr"] for group in optimizer.param_groups]))
    objective = make_supervised()
    groups = []
    before_steps(lambda optimizer: groups.append([group["params"] for group in optimizer.param_groups]))
    train_phase(objective, OptimizerConfig(learning_rate=0.1, warmup_steps=2), layer_decay=0.5)
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    assert len(seen) == 8
    for step, rates in enumerate(seen):
        checked = 0
        for rate, group in zip(rates, groups[step], strict=True):
            for parameter in group:
                name = names[id(parameter)]
                depth = 5 if name.startswith("head") else 0 if "layer" not in name else int(name.split("layer")[1][0])
                assert rate == pytest.approx(0.1 * 0.5 ** (5 - depth) * warmup_cosine(step, 8, 2)), name
                checked += 1
        assert checked == len(names)


def test_a_plateau_lowers_every_groups_rate_alike(make_supervised, train_phase, before_steps, tmp_path):
    seen = []
    before_steps(lambda optimizer: seen.append([group["lr"] for group in optimizer.param_groups]))
    settings = {"schedule": "plateau", "plateau_factor": 0.5, "plateau_patience": 1, "warmup_steps": 2}
    train_phase(
        make_supervised(),
        OptimizerConfig(learning_rate=0.1, **settings),
        layer_decay=0.5,
        epochs=6,
        evaluate=scripted([2.0, 1.0, 1.0, 3.0, 1.0, 1.0]),
        watched=LOSS,
    )
    assert len(seen[0]) > 6
    assert len(set(seen[-1])) == 6
    for step, rates in enumerate(seen):
        factor = 0.5 if step == 0 else 1.0 if step < 8 else 0.5
        assert rates == pytest.approx([factor * rate for rate in seen[1]]), step
    logged = [line["learning_rate"] for line in lines(tmp_path, "train")]
    assert logged == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05])


def test_it_stops_and_keeps_the_best_weights(make_supervised, train_phase, tmp_path):
    objective = make_supervised()
    held, losses = [], iter([3.0, 2.0, 2.5, 1.0, 1.5, 1.2, 0.1])

    def evaluate():
        held.append(copy.deepcopy(objective.state_dict()))
        return {"log_loss": next(losses)}

    stopping = StoppingConfig(patience=2)
    summary = train_phase(objective, SGD, epochs=7, evaluate=evaluate, watched=LOSS, stopping=stopping)
    assert (summary.steps, summary.images_seen) == (12, 144)
    assert (summary.stopped_early, summary.best_epoch) == (True, 4)
    assert same(objective.state_dict(), held[3])
    assert not same(held[5], held[3])
    assert lines(tmp_path, "stopping") == [
        {
            "phase": "phase",
            "epoch": 6,
            "step": 12,
            "split": "stopping",
            "stopped_early": 1.0,
            "best_epoch": 4,
            "best_log_loss": 1.0,
            "evaluations_without_improvement": 2,
            "patience": 2,
        }
    ]


def test_the_last_epoch_also_keeps_the_best_weights(make_supervised, train_phase, tmp_path):
    objective = make_supervised()
    # The last answer is for the weights that are restored.
    answers, held = iter([0.3, 0.5, 0.4, 0.5]), []

    def evaluate():
        held.append(copy.deepcopy(objective.state_dict()))
        return {"accuracy": next(answers)}

    summary = train_phase(
        objective, SGD, epochs=3, evaluate=evaluate, watched=ACCURACY, stopping=StoppingConfig(patience=5)
    )
    assert (summary.steps, summary.stopped_early, summary.best_epoch) == (6, False, 2)
    assert same(objective.state_dict(), held[1])
    assert same(held[3], held[1])
    assert lines(tmp_path, "stopping")[0]["stopped_early"] == 0.0


def test_patience_is_of_evaluations(make_supervised, train_phase):
    summary = train_phase(
        make_supervised(),
        SGD,
        epochs=9,
        every=2,
        evaluate=scripted([1.0, 2.0, 2.0]),
        watched=LOSS,
        stopping=StoppingConfig(patience=2),
    )
    assert summary.steps == 12


def test_nothing_is_remembered_across_phases(make_supervised, train_phase):
    """A second phase whose every loss is worse than the first's best keeps its own best all the same."""
    objective, held = make_supervised(), []
    stopping = StoppingConfig(patience=2)
    train_phase(objective, SGD, phase="first", epochs=2, evaluate=scripted([0.1, 0.2]), watched=LOSS, stopping=stopping)
    losses = iter([9.0, 8.0, 8.5, 9.5, 8.0])

    def evaluate():
        held.append(copy.deepcopy(objective.state_dict()))
        return {"log_loss": next(losses)}

    summary = train_phase(objective, SGD, phase="second", epochs=6, evaluate=evaluate, watched=LOSS, stopping=stopping)
    assert (summary.best_epoch, summary.steps) == (2, 8)
    assert same(objective.state_dict(), held[1])
    assert same(held[4], held[1])


@pytest.mark.parametrize(
    ("optimizer", "stopping"),
    [(SGD, StoppingConfig(patience=1)), (OptimizerConfig(schedule="plateau"), StoppingConfig())],
)
def test_going_by_no_metric_is_refused(make_supervised, train_phase, optimizer, stopping):
    with pytest.raises(InputError, match="go by a metric of labelled validation images"):
        train_phase(make_supervised(), optimizer, stopping=stopping)


def test_a_metric_that_is_not_measured_is_refused(make_supervised, train_phase):
    watched = Watched(metric="f1", higher_is_better=True)
    with pytest.raises(InputError, match="'f1' is watched"):
        train_phase(make_supervised(), SGD, watched=watched, stopping=StoppingConfig(patience=1))


@pytest.mark.parametrize("accumulate", [2, 5, 12, 50])
def test_micro_batches_take_the_same_steps(make_supervised, train_phase, tmp_path, accumulate):
    """On a network without BatchNorm; 12 images in 5 parts are three, three, two, two and two."""
    objectives = [make_supervised("transformer") for _ in range(2)]
    start = copy.deepcopy(objectives[0].state_dict())
    for objective, count in zip(objectives, (1, accumulate), strict=True):
        config = OptimizerConfig(name="sgd", learning_rate=0.1, warmup_steps=2, clip_norm=5.0, accumulate=count)
        train_phase(objective, config, folder=tmp_path / str(count))
    moved = 0
    for name, value in objectives[0].state_dict().items():
        torch.testing.assert_close(objectives[1].state_dict()[name], value, rtol=1e-4, atol=1e-5)
        moved += not torch.allclose(value, start[name], rtol=1e-3, atol=1e-4)
    assert moved > 10
    for split in ("train", "validation"):
        pair = [lines(tmp_path / str(count), split) for count in (1, accumulate)]
        assert len(pair[0]) == 4
        for first, second in zip(*pair, strict=True):
            for name in first.keys() - {"images_per_second", "phase", "split"}:
                assert second[name] == pytest.approx(first[name], rel=1e-3), name


def test_micro_batches_and_batch_norm_are_warned_about_once(make_supervised, train_phase, capsys):
    config = OptimizerConfig(name="sgd", warmup_steps=2, accumulate=2)
    for objective, count in (
        (make_supervised(), 1),
        (make_supervised("transformer"), 0),
        # A frozen backbone keeps its statistics.
        (make_supervised(trained="head"), 0),
    ):
        train_phase(objective, config)
        assert capsys.readouterr().out.count("warning: --optimizer.accumulate 2 with BatchNorm") == count


def test_losses_over_the_batch_are_not_split(make_supervised, train_phase):
    objective = make_supervised()
    objective.loss_over_batch = True
    with pytest.raises(InputError, match="Supervised compares the images of a batch with each other"):
        train_phase(objective, OptimizerConfig(accumulate=2))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_whole_gradient_is_clipped_once(make_supervised, train_phase, before_steps, monkeypatch, accumulate):
    norms, clipped = [], []
    plain = torch.nn.utils.clip_grads_with_norm_

    def traced(parameters, max_norm, norm):
        clipped.append(float(norm))
        plain(parameters, max_norm, norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grads_with_norm_", traced)
    before_steps(lambda optimizer: norms.append(gradient_norm(optimizer)))
    config = OptimizerConfig(name="sgd", learning_rate=1e-4, warmup_steps=0, clip_norm=0.05, accumulate=accumulate)
    train_phase(make_supervised("transformer"), config)
    assert len(norms) == len(clipped) == 8
    # Before clipping it was longer.
    assert min(clipped) > 0.1
    assert norms == pytest.approx([0.05] * 8, rel=1e-3)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_with_a_loss_scale_the_gradient_is_clipped_after_it_is_unscaled(
    make_supervised, train_phase, before_steps, monkeypatch, runtime, accumulate
):
    """As in fp16, on a CPU: accelerate's scaler, without the half precision that a CPU has not."""
    norms, states = [], []
    before_steps(lambda optimizer: norms.append(gradient_norm(optimizer)))
    config = OptimizerConfig(name="sgd", learning_rate=0.1, warmup_steps=0, clip_norm=0.05, accumulate=accumulate)
    for scaled in (False, True):
        if scaled:
            monkeypatch.setattr(runtime.accelerator, "scaler", torch.amp.GradScaler("cpu", init_scale=1024.0))
            monkeypatch.setattr(runtime.accelerator, "native_amp", True)
            monkeypatch.setattr(type(runtime.accelerator), "mixed_precision", property(lambda _: "fp16"))
            # Accelerate would let the network compute in half precision.
            monkeypatch.setattr(runtime.accelerator, "prepare_model", lambda model: model)
        objective = make_supervised("transformer")
        train_phase(objective, config)
        states.append(objective.state_dict())
    assert norms == pytest.approx([0.05] * 16, rel=1e-3)
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-6)


def test_without_clipping_the_gradient_is_as_it_is(make_supervised, train_phase, before_steps):
    norms = []
    before_steps(lambda optimizer: norms.append(gradient_norm(optimizer)))
    train_phase(make_supervised("transformer"), OptimizerConfig(name="sgd", learning_rate=1e-4, warmup_steps=0))
    assert min(norms) > 0.1


def test_the_moving_average_is_evaluated_and_kept(make_supervised, train_phase):
    """Against a naive average of the weights after each step; the steps themselves do not feel it."""
    raw, evaluated, walks = {}, {}, {}
    for decay in (0.0, 0.5):
        objective, evaluated[decay], walks[decay] = make_supervised(), [], []

        def after_step(progress, *, objective=objective, walk=walks[decay]):
            walk.append({name: value.detach().double().clone() for name, value in objective.named_parameters()})

        objective.after_step = after_step
        start = {name: value.detach().double().clone() for name, value in objective.named_parameters()}

        def evaluate(*, objective=objective, held=evaluated[decay]):
            held.append(copy.deepcopy(objective.state_dict()))
            return {"log_loss": 1.0}

        train_phase(objective, OptimizerConfig(warmup_steps=2, ema_decay=decay), evaluate=evaluate)
        raw[decay] = copy.deepcopy(objective.state_dict())
    assert len(walks[0.5]) == 8
    for plain, averaged in zip(walks[0.0], walks[0.5], strict=True):
        assert same(plain, averaged)
    expected = start
    for step, weights in enumerate(walks[0.5]):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = {name: decay * value + (1 - decay) * weights[name] for name, value in expected.items()}
    for name, value in expected.items():
        torch.testing.assert_close(raw[0.5][name].double(), value, rtol=1e-5, atol=1e-6)
    assert same(evaluated[0.5][-1], raw[0.5])
    differing = {name for name, value in raw[0.5].items() if not torch.equal(value, raw[0.0][name])}
    # BatchNorm's statistics are those of the steps.
    assert differing == set(start)


def test_the_moving_average_leaves_what_is_frozen(make_supervised, train_phase):
    objective = make_supervised(trained="head")
    before = copy.deepcopy(objective.state_dict())
    train_phase(objective, OptimizerConfig(warmup_steps=2, ema_decay=0.9))
    changed = {name for name, value in objective.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in objective.head.named_parameters(prefix="head")}


def test_a_new_phase_trains_what_is_newly_trainable(make_supervised, train_phase, traced_optimizers):
    """The old optimiser knows nothing of unfrozen parameters; each phase has its own, with exactly what it trains."""
    objective = make_supervised(trained="head")
    states = [copy.deepcopy(objective.state_dict())]
    for phase in ("head", "all"):
        objective.set_trained(phase)
        train_phase(objective, SGD, phase=phase)
        states.append(copy.deepcopy(objective.state_dict()))
    held = [[id(one) for group in made.param_groups for one in group["params"]] for made in traced_optimizers]
    assert len(held) == 2
    assert sorted(held[0]) == sorted(id(parameter) for parameter in objective.head.parameters())
    assert sorted(held[1]) == sorted(id(parameter) for parameter in objective.parameters())
    assert all(not made.state for made in traced_optimizers[2:])
    moved = [
        {name for name, value in before.items() if not torch.equal(value, after[name])}
        for before, after in pairwise(states)
    ]
    parameters = {name for name, _ in objective.named_parameters()}
    assert moved[0] == {name for name in parameters if name.startswith("head")}
    assert moved[1] >= parameters
