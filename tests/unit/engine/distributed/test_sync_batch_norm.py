"""BatchNorm over all processes, here threads that exchange in their place: what plain BatchNorm is over the whole."""

import threading
from collections.abc import Callable

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from ssl_transfer.engine.distributed import sync_batch_norm as module
from ssl_transfer.engine.distributed.sync_batch_norm import SYNCHRONIZED, synchronized
from ssl_transfer.engine.optimization.optimizers import parameter_groups
from ssl_transfer.engine.training.objective import Objective

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "of features": (lambda: nn.BatchNorm1d(3), (8, 3)),
    "of sequences": (lambda: nn.BatchNorm1d(3), (8, 3, 5)),
    "of maps": (lambda: nn.BatchNorm2d(3), (8, 3, 4, 5)),
    "of volumes": (lambda: nn.BatchNorm3d(3), (8, 3, 2, 3, 2)),
    "without weights": (lambda: nn.BatchNorm2d(3, affine=False), (8, 3, 4, 4)),
    "without statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (8, 3, 4, 4)),
    "mean over batches": (lambda: nn.BatchNorm2d(3, momentum=None), (8, 3, 4, 4)),
    "other settings": (lambda: nn.BatchNorm2d(3, momentum=0.3, eps=0.1), (8, 3, 4, 4)),
    "timm's, activated": (lambda: BatchNormAct2d(3, act_layer=nn.SiLU, inplace=False), (8, 3, 4, 4)),
    "timm's, plain": (lambda: BatchNormAct2d(3, apply_act=False), (8, 3, 4, 4)),
}


class Ranks:
    """Threads as processes: what each hands in, all get."""

    def __init__(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self._place = count, threading.local()
        self._slots, self._barrier = [torch.empty(0)] * count, threading.Barrier(count, timeout=10)
        monkeypatch.setattr(module, "num_processes", lambda: count)
        monkeypatch.setattr(module, "gather_without_gradient", lambda x: torch.cat(self._all(x)))
        monkeypatch.setattr(module, "total", lambda x: torch.stack(self._all(x)).sum(dim=0))

    def _all(self, x: Tensor) -> list[Tensor]:
        self._slots[self._place.rank] = x.detach()
        self._barrier.wait()
        found = list(self._slots)
        self._barrier.wait()
        return found

    def run(self, function: Callable[[int], None]) -> None:
        def one(rank: int) -> None:
            self._place.rank = rank
            function(rank)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class Net(Objective):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)


class World:
    """As much of a runtime as is asked for."""

    def __init__(self, num_processes: int) -> None:
        self.num_processes, self.said = num_processes, list[str]()

    def say(self, message: str) -> None:
        self.said.append(message)


def made(layer: str) -> Net:
    torch.manual_seed(0)
    net = Net(LAYERS[layer][0]()).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net.train()


def outcome(net: Net, images: Tensor, weights: Tensor) -> list[Tensor]:
    """Outputs of the second of two batches, gradients with respect to the images and the weights."""
    net.layers(images + 1.0)
    images = images.clone().requires_grad_()
    outputs = net.layers(images)
    (outputs * weights).sum().backward()
    assert images.grad is not None
    return [outputs.detach(), images.grad, *(parameter.grad for parameter in net.parameters())]


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("layer", LAYERS)
def test_it_is_plain_batch_norm_over_the_whole(layer: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    # Far from zero, where a mean of squares would lose digits.
    images = 100.0 + torch.randn(LAYERS[layer][1], generator=generator, dtype=torch.float64)
    weights = torch.randn(LAYERS[layer][1], generator=generator, dtype=torch.float64)
    net = made(layer)
    expected = outcome(net, images, weights)
    ranks, nets, found = Ranks(count, monkeypatch), [made(layer) for _ in range(count)], {}

    def one(rank: int) -> None:
        with synchronized(nets[rank], wanted=True, runtime=World(count)):
            found[rank] = outcome(nets[rank], images.chunk(count)[rank], weights.chunk(count)[rank])

    ranks.run(one)
    assert len(found) == count
    for number in (0, 1):
        torch.testing.assert_close(torch.cat([found[rank][number] for rank in range(count)]), expected[number], **TIGHT)
    for number, gradient in enumerate(expected[2:], start=2):
        whole = sum(found[rank][number] for rank in range(count))
        torch.testing.assert_close(whole, gradient, **TIGHT)
    for other in nets:
        assert other.state_dict().keys() == net.state_dict().keys()
        for name, value in net.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, **TIGHT)


def test_layers_change_their_class_and_nothing_else() -> None:
    """Keep the parameters and buffers that a wrapper and an optimiser refer to."""
    net = Net(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), BatchNormAct2d(3))
    groups, held = parameter_groups(net, learning_rate=0.1, weight_decay=0.0), list(net.layers)
    state = dict(net.state_dict())
    with synchronized(net, wanted=True, runtime=World(2)):
        kinds = [SYNCHRONIZED[kind] for kind in (nn.BatchNorm2d, BatchNormAct2d)]
        assert [type(layer) for layer in net.layers] == [nn.Conv2d, *kinds]
        assert list(net.layers) == held
        assert net.state_dict().keys() == state.keys()
        assert {id(one) for group in groups for one in group["params"]} == {id(one) for one in net.parameters()}
    assert [type(layer) for layer in net.layers] == [nn.Conv2d, nn.BatchNorm2d, BatchNormAct2d]


def test_in_evaluation_mode_it_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is exchanged: the other process may not be there."""
    net, images = made("timm's, activated").eval(), torch.randn(4, 3, 4, 4, dtype=torch.float64)
    expected, state = net.layers(images), {name: value.clone() for name, value in net.state_dict().items()}
    monkeypatch.setattr(module, "gather_without_gradient", lambda _: pytest.fail("exchanged"))
    with synchronized(net, wanted=True, runtime=World(2)):
        assert torch.equal(net.layers(images), expected)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(("wanted", "together", "processes"), [(False, True, 2), (True, False, 2), (True, True, 1)])
def test_where_it_does_nothing(wanted: bool, together: bool, processes: int) -> None:
    net = made("of maps")
    net.normalised_together = together
    with synchronized(net, wanted=wanted, runtime=World(processes)):
        assert type(net.layers[0]) is nn.BatchNorm2d


def test_a_layer_of_another_kind_is_named() -> None:
    class Odd(nn.BatchNorm2d):
        pass

    net, world = Net(Odd(3)), World(2)
    with synchronized(net, wanted=True, runtime=world):
        assert type(net.layers[0]) is Odd
    assert world.said == ["warning: Odd layers normalise each process's images by themselves."]


def test_an_error_gives_the_layers_back() -> None:
    net = made("of maps")
    with pytest.raises(KeyError), synchronized(net, wanted=True, runtime=World(2)):
        raise KeyError
    assert type(net.layers[0]) is nn.BatchNorm2d


def test_half_precision_is_normalised_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = Net(nn.BatchNorm2d(3)).train(), 100.0 + torch.randn(8, 3, 4, 4)
    expected = net.layers(images.bfloat16().float())
    ranks, found = Ranks(2, monkeypatch), {}

    def one(rank: int) -> None:
        other = Net(nn.BatchNorm2d(3)).train()
        with synchronized(other, wanted=True, runtime=World(2)):
            found[rank] = other.layers(images.chunk(2)[rank].bfloat16())

    ranks.run(one)
    assert found[0].dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat([found[0], found[1]]).float(), expected, rtol=1e-2, atol=1e-2)
