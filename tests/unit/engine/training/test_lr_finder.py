import copy
import itertools
import math

import pytest
import torch

from ssl_transfer.data.loaders.loader import Loader
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig, parameter_groups
from ssl_transfer.engine.training import lr_finder
from ssl_transfer.engine.training.lr_finder import RangeTest, find_learning_rate


@pytest.fixture
def find(runtime, make_dataset):
    def call(objective, *, optimizer=None, layer_decay=1.0, groups=None, **settings):
        dataset = make_dataset()
        loader = Loader(dataset, dataset.splits["train"], batch_size=12, seed=0, runtime=runtime, labelled=True)
        layers = {f"backbone.{name}": depth for name, depth in objective.backbone.layers().items()}
        groups = groups or parameter_groups(
            objective, learning_rate=0.1, weight_decay=0.0, layers=layers, layer_decay=layer_decay
        )
        optimizer = optimizer or OptimizerConfig()
        test = RangeTest(**settings)
        return find_learning_rate(objective, groups, loader, optimizer=optimizer, seed=0, runtime=runtime, test=test)

    return call


def everything(objective) -> dict[str, torch.Tensor]:
    held = {**dict(objective.named_parameters()), **dict(objective.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in held.items()}


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_left_as_it_was(make_supervised, find, monkeypatch, fails):
    objective = make_supervised()
    objective.eval()
    objective.head.layers[0].weight.grad = torch.ones_like(objective.head.layers[0].weight)
    groups = parameter_groups(objective, learning_rate=0.1, weight_decay=0.0)
    outside = [{key: value for key, value in group.items() if key not in ("params", "names")} for group in groups]
    before, random = everything(objective), torch.get_rng_state()
    if fails:
        looked = []
        plain = type(objective).forward

        def forward(self, batch):
            looked.append(1)
            if len(looked) == 5:
                raise KeyboardInterrupt
            return plain(self, batch)

        monkeypatch.setattr(type(objective), "forward", forward)
        with pytest.raises(KeyboardInterrupt):
            find(objective, groups=groups)
    else:
        weights = []
        plain_backward = lr_finder.accumulate_gradient

        def traced(*arguments):
            weights.append(objective.head.layers[0].weight.detach().clone())
            return plain_backward(*arguments)

        monkeypatch.setattr(lr_finder, "accumulate_gradient", traced)
        find(objective, groups=groups)
        # In between, it did train.
        assert not torch.allclose(weights[-1], before["head.layers.0.weight"], atol=0.01)
    after = everything(objective)
    assert len(before) > 40
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module.training for module in objective.modules())
    gradients = {name for name, parameter in objective.named_parameters() if parameter.grad is not None}
    assert gradients == {"head.layers.0.weight"}
    assert torch.equal(objective.head.layers[0].weight.grad, torch.ones_like(objective.head.layers[0].weight))
    assert [{key: group[key] for key in kept} for group, kept in zip(groups, outside, strict=True)] == outside
    assert all(group.keys() == kept.keys() | {"params", "names"} for group, kept in zip(groups, outside, strict=True))


def test_a_training_after_a_search_is_the_same(make_supervised, find, train_phase, tmp_path):
    states = []
    for searched in (False, True):
        objective = make_supervised()
        if searched:
            find(objective)
        train_phase(objective, OptimizerConfig(warmup_steps=2), folder=tmp_path / str(searched))
        states.append(copy.deepcopy(objective.state_dict()))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_curve_and_the_rule(make_supervised, find):
    found = find(make_supervised(), lowest=1e-5, highest=10.0, steps=60)
    rates = [row["learning_rate"] for row in found.rows]
    assert rates[0] == 1e-5
    ratio = (10.0 / 1e-5) ** (1 / 59)
    assert [after / before for before, after in itertools.pairwise(rates)] == pytest.approx([ratio] * (len(rates) - 1))
    assert [row["step"] for row in found.rows] == list(range(1, len(rates) + 1))
    smoothed = [row["smoothed_loss"] for row in found.rows]
    assert found.least == rates[smoothed.index(min(smoothed))]
    assert found.suggestion == pytest.approx(found.least / 10)
    assert 1e-5 < found.suggestion < 1.0
    assert min(smoothed) < smoothed[0]


def test_smoothing_in_closed_form(make_supervised, find):
    rows = find(make_supervised(), steps=30).rows
    for count in range(1, len(rows) + 1):
        weights = [0.9 ** (count - 1 - number) for number in range(count)]
        mean = sum(w * row["loss"] for w, row in zip(weights, rows, strict=False)) / sum(weights)
        assert rows[count - 1]["smoothed_loss"] == pytest.approx(mean)


def test_it_ends_where_the_loss_explodes(make_supervised, find):
    found = find(
        make_supervised("transformer"), optimizer=OptimizerConfig(name="sgd"), lowest=1e-3, highest=1e6, steps=50
    )
    assert found.exploded
    assert len(found.rows) < 50
    assert all(math.isfinite(row["smoothed_loss"]) for row in found.rows)
    assert not find(make_supervised("transformer"), highest=1e-3, steps=20).exploded


def test_groups_keep_their_ratios(make_supervised, find, monkeypatch):
    seen = []
    plain = lr_finder.make_optimizer

    def traced(*arguments):
        made = plain(*arguments)
        made.register_step_pre_hook(
            lambda optimizer, *_: seen.append([group["lr"] for group in optimizer.param_groups])
        )
        return made

    monkeypatch.setattr(lr_finder, "make_optimizer", traced)
    found = find(make_supervised(), layer_decay=0.5, steps=30, highest=1e-1)
    assert len(seen) == len(found.rows) == 30
    for rates, row in zip(seen, found.rows, strict=True):
        assert max(rates) == pytest.approx(row["learning_rate"])
        assert min(rates) == pytest.approx(row["learning_rate"] * 0.5**5)


def test_micro_batches_find_the_same(make_supervised, find):
    settings = {"name": "sgd", "clip_norm": 1.0}
    rows = [
        find(make_supervised("transformer"), optimizer=OptimizerConfig(accumulate=count, **settings), steps=15).rows
        for count in (1, 4)
    ]
    for first, second in zip(*rows, strict=True):
        assert second == pytest.approx(first, rel=1e-4)


def test_a_loss_that_never_falls_is_an_error():
    rows = [{"step": 1.0, "learning_rate": 0.1, "loss": 1.0, "smoothed_loss": 0.5}]
    rows += [{"step": 2.0, "learning_rate": 0.2, "loss": 1.0, "smoothed_loss": 1.0}]
    rows += [{"step": 3.0, "learning_rate": 0.4, "loss": 2.0, "smoothed_loss": 1.5}]
    with pytest.raises(InputError, match=r"falls at no learning rate from 0\.2 on"):
        lr_finder._suggest(rows, skipped=1, exploded=True)
    with pytest.raises(InputError, match="exploded within 3 steps"):
        lr_finder._suggest(rows, skipped=3, exploded=True)
    rows[2]["smoothed_loss"] = 0.9
    # The first step's loss was low by chance.
    assert lr_finder._suggest(rows, skipped=1, exploded=False).least == 0.4


@pytest.mark.parametrize("settings", [{"lowest": 0.0}, {"lowest": 1.0, "highest": 0.1}, {"steps": 9}])
def test_an_impossible_range_is_refused(make_supervised, find, settings):
    with pytest.raises(InputError, match="lowest below the highest"):
        find(make_supervised(), **settings)
