import copy
import math
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.engine.errors import InputError
from ssl_transfer.methods.moco import MoCo, MoCoConfig, fitted

UNCHANGED = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, jitter=0.0, grey=0.0, blur=0.0)


def build(backbone, **settings) -> MoCo:
    small = {"queue_size": 100, "hidden_width": 16, "output_width": 8}
    return MoCo(backbone, MoCoConfig(**{**small, **settings}))


def units(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def fill(method: MoCo, seed: int = 9) -> None:
    method.queue.copy_(units(*method.queue.shape, seed=seed))
    method.filled.fill_(len(method.queue))


def naive_contrast(queries, keys, queue, temperature: float) -> float:
    """Equation 1 of the paper, term by term in float64."""
    total = 0.0
    for query, key in zip(queries.double(), keys.double(), strict=True):
        positive = math.exp(float(query @ key) / temperature)
        negatives = sum(math.exp(float(query @ other) / temperature) for other in queue.double())
        total -= math.log(positive / (positive + negatives))
    return total / len(queries)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_contrast_against_a_naive_loop(make_backbone, temperature):
    method = build(make_backbone(), temperature=temperature)
    fill(method)
    queries, keys = units(6, 8, seed=1), units(6, 8, seed=2)
    expected = naive_contrast(queries, keys, method.queue, temperature)
    assert float(method.contrast(queries, keys)) == pytest.approx(expected, rel=1e-5)


def test_empty_places_are_no_negatives(make_backbone):
    method = build(make_backbone())
    queries, keys = units(6, 8, seed=1), units(6, 8, seed=2)
    assert float(method.contrast(queries, keys)) == 0.0
    method.enqueue(units(7, 8, seed=3))
    expected = naive_contrast(queries, keys, units(7, 8, seed=3), 0.2)
    assert float(method.contrast(queries, keys)) == pytest.approx(expected, rel=1e-5)


def test_the_queue_holds_no_key_of_the_same_step(make_backbone, make_batch):
    # Both views are the image itself and both encoders are equal, so each query is its own key. Were the keys put
    # into the queue before the loss is taken, the loss would be above ln 2.
    method = build(make_backbone(), key_groups=1, symmetric=False, temperature=0.01, augment=UNCHANGED, output_width=64)
    fill(method)
    batch = make_batch(8)
    assert float(method(batch).loss.detach()) < 1e-3
    # Now the queue holds these very keys.
    method.after_step(1.0)
    assert float(method(batch).loss.detach()) > math.log(2) - 1e-3


def test_a_queue_that_the_batch_does_not_divide_is_first_in_first_out(make_backbone):
    method = build(make_backbone())
    for number in range(3):
        rows = torch.arange(40 * number, 40 * (number + 1), dtype=torch.float32)
        method.enqueue(rows[:, None].expand(-1, 8))
        assert int(method.filled) == min(100, 40 * (number + 1))
    assert int(method.pointer) == 20
    # Keys 0 .. 19 made room for 100 .. 119.
    assert method.queue[:, 0].tolist() == [*range(100, 120), *range(20, 100)]


def test_a_batch_above_the_queue_keeps_the_newest(make_backbone):
    method = build(make_backbone(), queue_size=5)
    method.enqueue(torch.arange(8.0)[:, None].expand(-1, 8))
    assert sorted(method.queue[:, 0].tolist()) == [3.0, 4.0, 5.0, 6.0, 7.0]
    assert int(method.filled) == 5


def test_only_training_fills_the_queue(make_backbone, make_batch):
    method = build(make_backbone())
    method.eval()
    method(make_batch(8))
    assert int(method.filled) == 0
    method.train()
    method(make_batch(8))
    assert int(method.filled) == 8


ORDER = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])


def test_shuffling_changes_what_batch_normalisation_sees(make_backbone):
    method = build(make_backbone(), key_groups=2)
    views = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plain, shuffled = (copy.deepcopy(method).encode_keys(views, order) for order in (torch.arange(8), ORDER))
    assert (plain - shuffled).abs().max() > 1e-3
    # One group normalises the whole batch, in whatever order.
    method = build(make_backbone(), key_groups=1)
    plain, shuffled = (copy.deepcopy(method).encode_keys(views, order) for order in (torch.arange(8), ORDER))
    assert torch.allclose(plain, shuffled, atol=1e-5)


def test_shuffled_keys_come_back_in_order(make_backbone):
    method = build(make_backbone("transformer"), key_groups=2)
    method.key_projector = nn.Linear(16, 8)
    views = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = F.normalize(method.key_projector(method.key_backbone(views)), dim=1)
    assert expected.std(dim=0).mean() > 1e-3
    assert torch.allclose(method.encode_keys(views, ORDER), expected, atol=1e-5)


def test_every_query_meets_the_other_view_of_its_image(make_backbone, make_batch, monkeypatch):
    method = build(make_backbone("transformer"), key_groups=2)
    method.projector = nn.Linear(16, 8)
    method.key_projector = copy.deepcopy(method.projector)
    seen = {}

    def contrast(queries, keys):
        seen.update(queries=queries, keys=keys)
        return queries.sum()

    monkeypatch.setattr(method, "contrast", contrast)
    method(make_batch(8))
    first, second = seen["queries"].chunk(2)
    # Equal encoders without BatchNorm: the key of a view is the query of that view.
    assert torch.allclose(seen["keys"], torch.cat([second, first]), atol=1e-5)
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_keys_order_is_a_function_of_the_images_keys(make_backbone, make_batch, monkeypatch):
    orders = []
    method = build(make_backbone())
    original = method.encode_keys
    monkeypatch.setattr(method, "encode_keys", lambda views, order: orders.append(order) or original(views, order))
    for seed in (0, 0, 1):
        method(make_batch(8, seed=seed))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert torch.equal(orders[0].sort().values, torch.arange(16))


@pytest.mark.parametrize(
    ("schedule", "progress", "kept"),
    [("cosine", 0.0, 0.9), ("cosine", 0.5, 0.95), ("cosine", 1.0, 1.0), ("constant", 0.5, 0.9), ("constant", 1.0, 0.9)],
)
def test_momentum_rises_along_a_cosine_or_stays(make_backbone, schedule, progress, kept):
    method = build(make_backbone(), momentum=0.9, momentum_schedule=schedule)
    with torch.no_grad():
        for parameter in [*method.backbone.parameters(), *method.projector.parameters()]:
            parameter.add_(1.0)
    pairs = [(method.key_backbone, method.backbone), (method.key_projector, method.projector)]
    expected = [
        kept * slow.detach() + (1.0 - kept) * fast.detach()
        for one, other in pairs
        for slow, fast in zip(one.parameters(), other.parameters(), strict=True)
    ]
    method.after_step(progress)
    found = [slow for one, _ in pairs for slow in one.parameters()]
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_the_state_holds_queue_pointer_and_key_encoder(make_backbone, make_batch):
    method = build(make_backbone())
    method(make_batch(8))
    state = OrderedDict(method.state_dict())
    assert {"queue", "pointer", "filled"} <= state.keys()
    keys = {name for name in state if name.startswith("key_backbone.")}
    assert {name.removeprefix("key_") for name in keys} == {name for name in state if name.startswith("backbone.")}
    other = build(make_backbone(seed=5))
    other.load_state_dict(state)
    assert torch.equal(other.queue, method.queue)
    assert (int(other.pointer), int(other.filled)) == (8, 8)


def test_loss_is_float32_under_autocast(make_backbone, make_batch):
    method = build(make_backbone(), augment=UNCHANGED)
    fill(method)
    batch, twin = make_batch(8), copy.deepcopy(method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(batch).loss
    assert loss.dtype == torch.float32
    assert method.queue.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(twin(batch).loss.detach()), rel=0.05)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"queue_size": 0}, {"key_groups": 0}, {"momentum": 1.5}, {"momentum": -0.1}]
)
def test_impossible_settings_are_refused(make_backbone, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        build(make_backbone(), **settings)


def test_the_queue_is_never_larger_than_the_pool():
    default = MoCoConfig()
    assert fitted(default, 5000) == default
    assert fitted(default, 300).queue_size == 300
    assert fitted(MoCoConfig(queue_size=300), 300).queue_size == 300
    with pytest.raises(InputError, match=r"queue_size 301: the pool has 300 images.* At most 300"):
        fitted(MoCoConfig(queue_size=301), 300)
