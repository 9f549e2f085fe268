import contextlib

import torch
from torch import nn

from ssl_transfer.engine.training.gradients import accumulate_gradient, split
from ssl_transfer.engine.training.objective import Batch, Output


class Recorder:
    """Stands in for accelerate's: what was done, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []

    @contextlib.contextmanager
    def no_sync(self, module):
        assert isinstance(module, Mean)
        self.done.append("alone")
        yield
        self.done.append("together")

    def backward(self, loss):
        self.done.append("backward")
        loss.backward()


class Mean(nn.Module):
    """The mean over images of weight * pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch):
        return Output((self.weight * batch.images).mean(), {"label": batch.labels.float().mean()})


def batch_of(count: int) -> Batch:
    numbers = torch.arange(count)
    return Batch(images=numbers.float().view(count, 1, 1, 1) ** 2, labels=numbers, keys=numbers)


def test_every_image_is_in_one_part():
    parts = split(batch_of(10), 4)
    assert [len(part.images) for part in parts] == [3, 3, 2, 2]
    for name in Batch._fields:
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch_of(10), name))


def test_no_part_is_empty():
    assert [len(part.images) for part in split(batch_of(3), 8)] == [1, 1, 1]


def test_unequal_parts_weigh_by_their_images():
    for count in (1, 2, 3, 4, 7):
        module = Mean()
        loss, metrics = accumulate_gradient(module, batch_of(7), count, Recorder())
        # The mean of 0, 1, 4, ..., 36 and of 0, ..., 6.
        torch.testing.assert_close(loss, torch.tensor(13.0))
        torch.testing.assert_close(module.weight.grad, torch.tensor(13.0))
        torch.testing.assert_close(metrics["label"], torch.tensor(3.0))


def test_gradients_are_exchanged_with_the_last_part_only():
    recorder = Recorder()
    accumulate_gradient(Mean(), batch_of(6), 3, recorder)
    assert recorder.done == ["alone", "backward", "together", "alone", "backward", "together", "backward"]
    recorder = Recorder()
    accumulate_gradient(Mean(), batch_of(6), 1, recorder)
    assert recorder.done == ["backward"]
