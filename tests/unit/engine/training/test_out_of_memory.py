"""Out of memory: in more parts where the loss allows it, otherwise a word about the batch that fits."""

import pytest
import torch

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.checkpointing import State

SGD = OptimizerConfig(name="sgd", learning_rate=0.02, warmup_steps=0)


@pytest.fixture
def limit(monkeypatch):
    """`limit(objective, 5)`: more than five images at a time do not fit, as a GPU would say it."""

    def arrange(objective, most, calls=None):
        plain = objective.forward

        def forward(batch):
            if objective.training and calls is not None:
                calls.append(len(batch.images))
            output = plain(batch)
            if objective.training and len(batch.images) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return output

        monkeypatch.setattr(objective, "forward", forward)

    return arrange


def test_the_batch_is_halved_until_it_fits(make_supervised, train_phase, limit, capsys):
    calls = []
    objective, alike = make_supervised("transformer"), make_supervised("transformer")
    limit(objective, 4, calls)
    train_phase(objective, SGD)
    # 12 images: once whole, once in halves, from then on in quarters.
    assert calls == [12, 6] + [3] * 4 * 8
    said = capsys.readouterr().err
    assert "out of memory on cpu with 12 images at a time. Going on with --optimizer.accumulate 2" in said
    assert "out of memory on cpu with 6 images at a time. Going on with --optimizer.accumulate 4" in said
    train_phase(alike, OptimizerConfig(name="sgd", learning_rate=0.02, warmup_steps=0, accumulate=4), phase="alike")
    for name, value in alike.state_dict().items():
        assert torch.equal(objective.state_dict()[name], value), name


def test_it_is_resumed_in_the_same_parts(make_supervised, train_phase, limit, tmp_path, capsys):
    whole = make_supervised()
    limit(whole, 6)
    train_phase(whole, SGD, folder=tmp_path / "whole")
    objective = make_supervised()
    calls = []
    limit(objective, 6, calls)
    steps = 0
    plain = objective.after_step

    def stopped(progress):
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        plain(progress)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(State, "due", True)
        patched.setattr(objective, "after_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_phase(objective, SGD, folder=tmp_path / "stopped", saved=True)
    again = make_supervised()
    limit(again, 6, calls := [])
    train_phase(again, SGD, folder=tmp_path / "stopped", saved=True)
    assert calls == [6] * 2 * 5
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_statistics_take_in_only_the_pass_that_counts(make_supervised, train_phase, limit):
    """Ten forward passes of two parts each, after one that failed."""
    objective = make_supervised()
    limit(objective, 6)
    train_phase(objective, SGD)
    assert int(objective.backbone.model.bn1.num_batches_tracked) == 2 * 8


def test_a_loss_over_the_batch_names_what_fits(make_supervised, train_phase, limit):
    objective = make_supervised()
    objective.loss_over_batch = True
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    limit(objective, 4)
    with pytest.raises(InputError, match=r"12 images at a time\. Supervised compares.*--batch-size 3 fits"):
        train_phase(objective, SGD)
    assert all(torch.equal(objective.state_dict()[name], value) for name, value in before.items())


def test_nothing_fits(make_supervised, train_phase, limit):
    objective = make_supervised()
    limit(objective, 0)
    with pytest.raises(InputError, match=r"2 images at a time\. Take a smaller backbone"):
        train_phase(objective, SGD)
    objective.loss_over_batch = True
    with pytest.raises(InputError, match=r"12 images at a time\. Not even 2 fit"):
        train_phase(objective, SGD)
