import pytest
import torch

from ssl_transfer.engine import randomness
from ssl_transfer.engine.randomness import fold, normal, permutation, sample_keys, seed_from, uniform

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def reference_mix(value: int) -> int:
    """SplitMix64's output function on Python's unbounded integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def reference_fold(key: int, value: int) -> int:
    return reference_mix(reference_mix((key + GAMMA) & MASK) ^ reference_mix((value + 2 * GAMMA) & MASK))


def as_int64(values: list[int]) -> torch.Tensor:
    return torch.tensor([value - 2**64 if value >> 63 else value for value in values], dtype=torch.int64)


def test_mix_reproduces_the_published_vector():
    # The first outputs of SplitMix64 seeded with 1234567: the mix of the state, which gamma moves on each time.
    states = [(1234567 + (count + 1) * GAMMA) & MASK for count in range(3)]
    published = as_int64([6457827717110365317, 3203168211198807973, 9817491932198370423])
    assert torch.equal(randomness._mix(as_int64(states)), published)


def test_mix_and_fold_agree_with_python_integers():
    values = [0, 1, 2, 1 << 63, MASK, 0x0123456789ABCDEF, *(reference_mix(number) for number in range(200))]
    assert torch.equal(randomness._mix(as_int64(values)), as_int64([reference_mix(value) for value in values]))
    for value in (0, 7, -1, 2**40):
        expected = as_int64([reference_fold(key, value & MASK) for key in values])
        assert torch.equal(fold(as_int64(values), value), expected)


def test_sample_keys_are_folds_of_seed_epoch_and_sample():
    key = reference_fold(reference_fold(reference_fold(0, 3), 5), 11)
    assert torch.equal(sample_keys(3, 5, torch.tensor([11])), as_int64([key]))


def test_fold_minds_the_order():
    key = torch.zeros(1, dtype=torch.int64)
    assert not torch.equal(fold(fold(key, 1), 2), fold(fold(key, 2), 1))


def test_seeds_are_distinct_and_not_negative():
    seeds = {seed_from(a, b) for a in range(20) for b in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_uniform_fills_the_interval_evenly():
    draws = uniform(sample_keys(0, 0, torch.arange(5000)), 0, 20)
    assert draws.shape == (5000, 20)
    assert draws.dtype == torch.float32
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    counts = torch.histc(draws, bins=20, min=0.0, max=1.0)
    # 5,000 expected a bin with a deviation of 69: five of them.
    assert (counts - 5000).abs().max() < 350
    assert abs(float(draws.double().mean()) - 0.5) < 0.005
    assert abs(float(draws.double().var()) - 1 / 12) < 0.002


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("seeds", (0, 0, 0), (1, 0, 0)),
        ("epochs", (0, 0, 0), (0, 1, 0)),
        ("streams", (0, 0, 0), (0, 0, 1)),
    ],
)
def test_seeds_epochs_and_streams_are_independent(name, first, second):
    samples = torch.arange(4000)
    draws = [uniform(sample_keys(seed, epoch, samples), stream, 1)[:, 0] for seed, epoch, stream in (first, second)]
    assert abs(float(torch.corrcoef(torch.stack(draws))[0, 1])) < 0.08, name


def test_samples_and_counters_are_independent():
    draws = uniform(sample_keys(0, 0, torch.arange(4001)), 0, 4)
    neighbours = torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1]
    counters = torch.corrcoef(draws.T) - torch.eye(4)
    assert abs(float(neighbours)) < 0.08
    assert float(counters.abs().max()) < 0.08


def test_a_number_is_a_function_of_its_sample_only():
    samples = torch.arange(64)
    whole = uniform(sample_keys(1, 2, samples), 3, 5)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for chunk in order.split(7):
        assert torch.equal(uniform(sample_keys(1, 2, samples[chunk]), 3, 5), whole[chunk])
    assert torch.equal(uniform(sample_keys(1, 2, samples), 3, 9)[:, :5], whole)


def test_normal_has_the_moments_of_a_standard_normal():
    draws = normal(sample_keys(0, 0, torch.arange(5000)), 0, 20).double()
    assert torch.isfinite(draws).all()
    assert abs(float(draws.mean())) < 0.015
    assert abs(float(draws.var()) - 1.0) < 0.02
    assert abs(float(draws.pow(3).mean())) < 0.05
    assert abs(float(draws.pow(4).mean()) - 3.0) < 0.15


def test_normals_are_functions_of_sample_and_stream():
    keys = sample_keys(0, 0, torch.arange(2000))
    first, second = normal(keys, 1, 1)[:, 0], normal(keys, 2, 1)[:, 0]
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1
    assert torch.equal(normal(keys[7:9], 1, 1)[:, 0], first[7:9])


def test_permutation_is_one_and_another_in_each_epoch():
    orders = [permutation(0, epoch, 100) for epoch in range(5)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(100))
    assert len({tuple(order.tolist()) for order in orders}) == 5
    assert torch.equal(orders[2], permutation(0, 2, 100))
    assert not torch.equal(orders[2], permutation(1, 2, 100))


def test_seeds_are_the_folds_of_their_values() -> None:
    for values in ((0,), (1, 2, 3), (2**40, 9)):
        key = torch.zeros((), dtype=torch.int64)
        for value in values:
            key = randomness.fold(key, value)
        assert randomness.seed_from(*values) == int(key) & (2**63 - 1)
