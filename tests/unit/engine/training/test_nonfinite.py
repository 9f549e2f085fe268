"""Losses that are not finite: the step is undone, counted, and at a limit the run ends."""

import copy

import pytest
import torch

from ssl_transfer.engine.errors import DivergedError, InputError
from ssl_transfer.engine.io.json_files import read_lines
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training import nonfinite
from ssl_transfer.engine.training.checkpointing import State

SGD = OptimizerConfig(name="sgd", learning_rate=0.02, warmup_steps=0)
STEPS = 8


@pytest.fixture
def spoil(monkeypatch):
    """`spoil(objective, {3, 4})`: the features of the third and the fourth forward pass in training are not finite."""

    def arrange(objective, calls):
        count = 0
        plain = objective.forward

        def forward(batch):
            nonlocal count
            count += objective.training
            if count in calls:
                batch = batch._replace(images=batch.images * float("nan"))
            return plain(batch)

        monkeypatch.setattr(objective, "forward", forward)

    return arrange


def lines(folder, split):
    records = read_lines(folder / "metrics.jsonl")
    return [record for record in records if record["split"] == split]


def test_a_skipped_step_changes_nothing(make_supervised, train_phase, spoil, before_steps, tmp_path, capsys):
    objective = make_supervised()
    spoil(objective, {3})
    seen = []
    before_steps(lambda _: seen.append(copy.deepcopy(objective.state_dict())))
    train_phase(objective, SGD)
    assert len(seen) == STEPS - 1
    assert all(torch.isfinite(value).all() for value in objective.state_dict().values())
    assert "backbone.model.bn1.running_mean" in seen[2]
    error = capsys.readouterr().err
    assert "the loss of step 3 (epoch 2) is not finite; skipped, 1 of at most 10. Images of the batch: " in error
    (record,) = lines(tmp_path, "skipped")
    assert (record["step"], record["epoch"], record["count"], len(record["images"])) == (3, 2, 1, 12)
    rows = lines(tmp_path, "train")
    assert [row.get("skipped_steps") for row in rows] == [None, 1.0, 1.0, 1.0]
    # The mean of the steps that were taken.
    assert all(0.0 < row["loss"] < 10.0 for row in rows)


def test_statistics_are_those_of_before_the_step(make_supervised, train_phase, spoil, before_steps):
    """Skipped and then stopped: the buffers are what they were when the step began."""
    objective = make_supervised()
    spoil(objective, set(range(3, 100)))
    held = []
    before_steps(lambda _: held.append(copy.deepcopy(dict(objective.named_buffers()))))
    with pytest.raises(DivergedError):
        train_phase(objective, SGD)
    assert len(held) == 2
    after = dict(objective.named_buffers())
    # The second step's own forward pass is in them, as the hook sees them after it.
    assert all(torch.equal(after[name], value) for name, value in held[1].items())


def test_the_limit_ends_the_run_with_step_images_and_checkpoint(make_supervised, train_phase, spoil, tmp_path):
    objective = make_supervised()
    spoil(objective, {5, 6, 7})
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.02, warmup_steps=0, skip_limit=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(State, "due", True)
        with pytest.raises(DivergedError) as raised:
            train_phase(objective, optimizer, saved=True)
    message = str(raised.value)
    assert "the loss of step 6 (epoch 3) is not finite, and --optimizer.skip-limit 1 allows no further step" in message
    names = lines(tmp_path, "skipped")[-1]["images"]
    assert len(names) == 12
    assert f"Images of the batch: {', '.join(names[:8])} and 4 more (metrics.jsonl names them)." in message
    assert f"The last good checkpoint is {tmp_path / 'phase.pt'}" in message
    saved = torch.load(tmp_path / "phase.pt", weights_only=True)
    assert saved["step"] == 5
    assert saved["skips"] == {"count": 1}
    assert all(torch.isfinite(value).all() for value in saved["objective"].values())


def test_a_limit_of_none_ends_at_once(make_supervised, train_phase, spoil):
    objective = make_supervised()
    spoil(objective, {1})
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.02, warmup_steps=0, skip_limit=0)
    with pytest.raises(DivergedError, match=r"step 1 \(epoch 1\).*No state was saved before"):
        train_phase(objective, optimizer)


def test_an_epoch_without_a_step_ends_the_run(make_supervised, train_phase, spoil):
    """Fewer steps than the limit, and the last were not taken: that is no result."""
    objective = make_supervised()
    spoil(objective, {3, 4, 7, 8})
    with pytest.raises(DivergedError, match="no loss of the last epoch is finite"):
        train_phase(objective, SGD)


def test_an_epoch_without_a_step_in_between_does_not(make_supervised, train_phase, spoil, tmp_path):
    objective = make_supervised()
    spoil(objective, {3, 4})
    train_phase(objective, SGD)
    assert ["loss" in row for row in lines(tmp_path, "train")] == [True, False, True, True]
    assert lines(tmp_path, "train")[-1]["skipped_steps"] == 2.0


def test_a_gradient_that_is_not_finite_is_skipped(make_supervised, train_phase, before_steps, monkeypatch, capsys):
    """The loss is finite, and its gradient would end in every weight."""
    objective = make_supervised()
    parameter = next(objective.parameters())
    count = 0

    def spoil_gradient(gradient):
        nonlocal count
        count += 1
        return gradient * float("inf") if count == 3 else gradient

    parameter.register_hook(spoil_gradient)
    steps = []
    before_steps(lambda _: steps.append(1))
    train_phase(objective, SGD)
    assert (count, len(steps)) == (STEPS, STEPS - 1)
    assert all(torch.isfinite(value).all() for value in objective.state_dict().values())
    assert "step 3 (epoch 2) is not finite; skipped, 1 of at most 10" in capsys.readouterr().err


def test_a_skipped_step_leaves_the_loss_scale(make_supervised, train_phase, spoil, runtime, monkeypatch):
    """As in fp16, on a CPU: a skipped step with clipping leaves no gradient unscaled for the next one."""
    monkeypatch.setattr(runtime.accelerator, "scaler", torch.amp.GradScaler("cpu", init_scale=1024.0))
    monkeypatch.setattr(runtime.accelerator, "native_amp", True)
    monkeypatch.setattr(type(runtime.accelerator), "mixed_precision", property(lambda _: "fp16"))
    monkeypatch.setattr(runtime.accelerator, "prepare_model", lambda model: model)
    states = []
    for every in (1, 3):
        monkeypatch.setattr(nonfinite, "CHECK_EVERY_ON_CPU", every)
        objective = make_supervised()
        spoil(objective, {3} if every == 1 else {3, 5})
        train_phase(objective, OptimizerConfig(name="sgd", learning_rate=0.02, warmup_steps=0, clip_norm=0.5))
        states.append((runtime.accelerator.scaler.state_dict(), objective.state_dict()))
    assert states[0][0] == states[1][0]
    assert all(torch.equal(value, states[1][1][name]) for name, value in states[0][1].items())


def test_weights_that_are_not_finite_are_not_saved(make_supervised, train_phase, before_steps, tmp_path):
    """Whatever made them so: what was saved before stays."""
    train_phase(make_supervised(), SGD, epochs=2, saved=True, folder=tmp_path)
    good = (tmp_path / "phase.pt").read_bytes()
    objective, steps = make_supervised(), []

    def spoil_weights(optimizer):
        steps.append(1)
        if len(steps) == 3:
            with torch.no_grad():
                next(objective.parameters()).fill_(float("nan"))

    before_steps(spoil_weights)
    with pytest.raises(DivergedError, match=r"not finite"):
        # More epochs than the state before knows of, so that it goes on from there.
        train_phase(objective, SGD, epochs=4, saved=True, folder=tmp_path)
    assert (tmp_path / "phase.pt").read_bytes() == good


def test_a_negative_limit_is_refused():
    with pytest.raises(InputError, match="skip_limit -1"):
        OptimizerConfig(skip_limit=-1)
