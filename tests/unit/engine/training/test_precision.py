"""Half precision on a CPU: what would be trained on garbage is refused."""

import pytest
import torch
from torch import nn

from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.objective import Objective
from ssl_transfer.engine.training.precision import refused_where_wrong


class Convolution(Objective):
    def __init__(self, stride):
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, stride=stride, padding=1)

    def forward(self, images):
        return self.layer(images)


@pytest.fixture
def half():
    yield runtimes.start("bf16")
    runtimes.start()


def test_maps_of_one_pixel_are_refused(half):
    module = Convolution(2)
    with refused_where_wrong(module, half), pytest.raises(InputError, match=r"bf16.*maps of one pixel"):
        module(torch.ones(2, 4, 1, 1))
    assert module(torch.ones(2, 4, 1, 1)).shape == (2, 4, 1, 1)


@pytest.mark.parametrize(("stride", "size"), [(1, 1), (2, 2), (2, 4)])
def test_others_are_not(half, stride, size):
    module = Convolution(stride)
    with refused_where_wrong(module, half):
        module(torch.ones(2, 4, size, size))


def test_full_precision_is_not(runtime):
    with refused_where_wrong(module := Convolution(2), runtime):
        module(torch.ones(2, 4, 1, 1))


def test_fp16_needs_a_gpu(runtime):
    with pytest.raises(InputError, match="fp16 is for GPUs"):
        runtimes.start("fp16")
    runtimes.start()
