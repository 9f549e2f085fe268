import copy

import pytest
import torch
from torch import nn

from ssl_transfer.engine.optimization.ema import WeightAverage


def walk(module: nn.Module, seed: int) -> None:
    """Weights as after another step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def test_average_in_closed_form():
    module = nn.Linear(3, 2)
    average = WeightAverage(list(module.parameters()), 0.3)
    expected = module.weight.detach().double().clone()
    # (1 + t) / (10 + t) is 0.1, 0.182, 0.25 and then above 0.3.
    for step, decay in enumerate((1 / 10, 2 / 11, 3 / 12, 0.3, 0.3)):
        walk(module, step)
        expected = decay * expected + (1 - decay) * module.weight.detach().double()
        average.update()
    average.write()
    torch.testing.assert_close(module.weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_average_stands_in_for_a_while():
    module = nn.Linear(3, 2)
    average = WeightAverage(list(module.parameters()), 0.9)
    walk(module, 0)
    average.update()
    raw = copy.deepcopy(module.state_dict())
    with average.applied():
        assert not torch.equal(module.weight, raw["weight"])
    assert all(torch.equal(value, raw[name]) for name, value in module.state_dict().items())


def test_buffers_and_frozen_parameters_are_left_alone():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    module[0].requires_grad_(False)
    average = WeightAverage([one for one in module.parameters() if one.requires_grad], 0.9)
    for step in range(3):
        walk(module, step)
        module[1](torch.randn(4, 3, generator=torch.Generator().manual_seed(step)))
        average.update()
    raw = copy.deepcopy(module.state_dict())
    average.write()
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, raw[name])}
    assert changed == {"1.weight", "1.bias"}


def test_without_decay_nothing_happens():
    module = nn.Linear(3, 2)
    average = WeightAverage(list(module.parameters()), 0.0)
    walk(module, 0)
    raw = copy.deepcopy(module.state_dict())
    average.update()
    average.write()
    assert all(torch.equal(value, raw[name]) for name, value in module.state_dict().items())
    assert average.state_dict() == {}


@pytest.mark.parametrize("cut", range(4))
def test_it_goes_on_from_its_state(cut):
    modules = [nn.Linear(3, 2) for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    whole, before = (WeightAverage(list(module.parameters()), 0.5) for module in modules)
    for step in range(4):
        if step == cut:
            after = WeightAverage(list(modules[1].parameters()), 0.5)
            after.load_state_dict(copy.deepcopy(before.state_dict()))
            before = after
        for module, average in zip(modules, (whole, before), strict=True):
            walk(module, step)
            average.update()
    whole.write()
    before.write()
    assert torch.equal(modules[0].weight, modules[1].weight)
    assert not torch.equal(whole.state_dict()["averages"][0], torch.zeros(2, 3))
