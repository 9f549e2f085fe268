"""Check the contract of every adaptation, with shared and with separate BatchNorm statistics."""

import copy
import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ssl_transfer.objectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import parameter_groups
from ssl_transfer.engine.training.gradients import check_accumulation
from ssl_transfer.engine.training.objective import Batch
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.objectives.domain_adaptation import Adaptation, Adapting
from ssl_transfer.objectives.supervised import Supervised

TERMS = [name for name, entry in ADAPTATIONS.items() if entry.term is not None]
SETTINGS = {"self-training": {"confidence": 0.0}}
CASES = [
    *[(name, kind, "shared") for name in TERMS for kind in ("convolutional", "transformer")],
    *[(name, "convolutional", "separate") for name in TERMS],
]
every_adaptation = pytest.mark.parametrize(("name", "kind", "norm"), CASES)


@pytest.fixture
def build(make_supervised: Callable) -> Callable[..., Adapting]:
    def call(name: str, kind: str, norm: str, *, seed: int = 0) -> Adapting:
        supervised, entry = make_supervised(kind, seed=seed), ADAPTATIONS[name]
        term = entry.term(supervised, supervised.backbone.num_features, 3, entry.config(**SETTINGS.get(name, {})))
        made = Adapting(supervised, term, norm=norm)
        made.begin(adapting=True)
        # The reversal is at work.
        made.after_step(0.3)
        return made.train()

    return call


@pytest.fixture
def batches(make_batch: Callable) -> list[Batch]:
    """Four batches of 32: in each 16 labelled images, then 16 darker ones without labels."""
    made = []
    for number in range(4):
        whole = make_batch(32, seed=number)
        labels = whole.images[:, 0, 0, 0].mul(2.99).long()
        labels[16:] = -1
        images = torch.cat([whole.images[:16], whole.images[16:] * 0.5])
        made.append(Batch(images, labels, whole.keys))
    return made


def optimizer_of(objective: Adapting) -> torch.optim.Optimizer:
    groups = parameter_groups(objective, learning_rate=3e-3, weight_decay=0.0)
    return torch.optim.AdamW([{key: value for key, value in group.items() if key != "names"} for group in groups])


def test_all_adaptations_were_found() -> None:
    assert len(ADAPTATIONS) >= 8
    assert len(TERMS) >= 5
    assert len(CASES) == 3 * len(TERMS)
    assert {name for name, entry in ADAPTATIONS.items() if entry.on_target} == {"target"}
    assert {name for name, entry in ADAPTATIONS.items() if entry.estimates_statistics} == {"adabn"}
    assert len({entry.config for entry in ADAPTATIONS.values()}) == len(ADAPTATIONS)


def test_every_file_with_an_adaptation_is_listed() -> None:
    folder = Path(ssl_transfer.objectives.__file__).parent
    texts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    count = sum(text.count(" = Adaptation(") for text in texts.values())
    assert count == len(ADAPTATIONS)


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_every_term_takes_its_config(name: str) -> None:
    entry = ADAPTATIONS[name]
    assert isinstance(entry, Adaptation)
    assert entry.summary
    assert entry.config.__dataclass_params__.frozen
    if entry.term is not None:
        arguments = list(inspect.signature(entry.term).parameters.values())
        assert [argument.annotation for argument in arguments] == [Supervised, int, int, entry.config]
        assert dataclasses.fields(entry.config)


@every_adaptation
def test_loss_and_metrics(name: str, kind: str, norm: str, build: Callable, batches: list) -> None:
    output = build(name, kind, norm)(batches[0])
    assert (output.loss.shape, output.loss.dtype) == ((), torch.float32)
    assert torch.isfinite(output.loss)
    assert float(output.loss.detach()) > 0.0
    assert len(output.metrics) >= 2
    for metric in output.metrics.values():
        assert (metric.shape, metric.dtype, metric.requires_grad) == ((), torch.float32, False)
        assert torch.isfinite(metric)


@every_adaptation
def test_bfloat16_stays_close_to_float32(name: str, kind: str, norm: str, build: Callable, batches: list) -> None:
    exact = build(name, kind, norm)(batches[0]).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = build(name, kind, norm)(batches[0]).loss
    assert rounded.dtype == torch.float32
    assert float(rounded.detach()) == pytest.approx(float(exact.detach()), rel=0.02)
    rounded.backward()


@every_adaptation
def test_gradients_reach_what_is_trained_and_nothing_else(
    name: str, kind: str, norm: str, build: Callable, batches: list
) -> None:
    objective = build(name, kind, norm)
    objective(batches[0]).loss.backward()
    trained = 0
    for key, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{key} was not used"
            assert torch.isfinite(parameter.grad).all(), key
            trained += 1
        else:
            assert parameter.grad is None, key
            assert key.startswith("term.teacher."), key
    assert trained > 10


@every_adaptation
def test_the_term_changes_the_features_gradient(
    name: str, kind: str, norm: str, build: Callable, batches: list
) -> None:
    """Without it the target would not matter."""
    objective = build(name, kind, norm)
    weight = next(objective.backbone.parameters())
    gradients = []
    for factor in (1.0, 0.3):
        made = copy.deepcopy(objective)
        images = torch.cat([batches[0].images[:16], batches[0].images[16:] * factor])
        made(batches[0]._replace(images=images)).loss.backward()
        gradients.append(next(made.backbone.parameters()).grad)
    assert not torch.allclose(*gradients, rtol=1e-3, atol=1e-7)
    assert weight.grad is None


@every_adaptation
def test_state_round_trip(name: str, kind: str, norm: str, build: Callable, batches: list) -> None:
    first, second = build(name, kind, norm), build(name, kind, norm, seed=1)
    optimizer = optimizer_of(first)
    for number, batch in enumerate(batches[:3]):
        loss = first(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first.after_step((number + 1) / 4)
    second.load_state_dict(first.state_dict())
    losses = [float(objective(batches[3]).loss.detach()) for objective in (first, second)]
    assert losses[0] == losses[1]


@every_adaptation
def test_in_a_phase_of_the_source_alone_nothing_is_adapted(
    name: str, kind: str, norm: str, build: Callable, batches: list
) -> None:
    objective = build(name, kind, norm)
    objective.begin(adapting=False)
    half = Batch(batches[0].images[:16], batches[0].labels[:16], batches[0].keys[:16])
    alone = copy.deepcopy(objective.supervised)
    assert float(objective(half).loss.detach()) == float(alone(half).loss.detach())
    assert not any(parameter.requires_grad for parameter in objective.term.parameters())


@pytest.mark.parametrize("name", TERMS)
def test_micro_batches_are_refused(name: str, build: Callable, runtime: object) -> None:
    objective = build(name, "transformer", "shared")
    with pytest.raises(InputError, match="compares the images of a batch"):
        check_accumulation(objective, 2, runtime)
