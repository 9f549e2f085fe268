"""Draw random numbers as a function of (seed, epoch, sample, stream), never of history.

A run is therefore the same at any number of processes and on any device. A resumed run equals an uninterrupted one
without a saved generator state. The hash is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014) on whole tensors: torch's int64 wraps around as uint64 does.
"""

import math

import torch
from torch import Tensor

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = 0xFFFFFFFFFFFFFFFF


def _signed(value: int) -> int:
    """Reinterpret the bits of a uint64 as int64."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift logically; torch's own shift is arithmetic and copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """Apply SplitMix64's output function to an int64 tensor of any shape."""
    x = (x ^ _shift_right(x, 30)) * _signed(_MIX_1)
    x = (x ^ _shift_right(x, 27)) * _signed(_MIX_2)
    return x ^ _shift_right(x, 31)


def _mix_integer(x: int) -> int:
    """Apply the same function to a Python integer, modulo 2**64."""
    x &= _MASK
    x = (x ^ (x >> 30)) * _MIX_1 & _MASK
    x = (x ^ (x >> 27)) * _MIX_2 & _MASK
    return x ^ (x >> 31)


def fold(keys: Tensor, value: Tensor | int) -> Tensor:
    """Derive new keys from `keys` (int64, any shape) and `value` (an int, or an int64 tensor that broadcasts).

    Order matters: folding a then b gives another key than folding b then a.
    """
    if isinstance(value, int):
        value = torch.tensor(_signed(value), dtype=torch.int64, device=keys.device)
    return _mix(_mix(keys + _signed(_GOLDEN_GAMMA)) ^ _mix(value + _signed(2 * _GOLDEN_GAMMA)))


def seed_from(*values: int) -> int:
    """Derive a seed in 0 .. 2**63 - 1 for generators that are not counter-based (weights, dropout)."""
    key = 0
    for value in values:
        # `fold` on Python integers, without tensors: a training needs a seed at every step.
        key = _mix_integer(_mix_integer(key + _GOLDEN_GAMMA) ^ _mix_integer(value + 2 * _GOLDEN_GAMMA))
    return key & ((1 << 63) - 1)


def reseed(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of `device`.

    `torch.manual_seed` stores a stack trace at each call while CUDA is not initialised.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def sample_keys(seed: int, epoch: int, samples: Tensor) -> Tensor:
    """Derive the int64 key of each sample in an epoch; `samples` are int64 indices into the data set, any shape."""
    return fold(fold(fold(torch.zeros_like(samples), seed), epoch), samples)


def uniform(keys: Tensor, stream: int, count: int) -> Tensor:
    """Draw `count` uniform numbers in [0, 1) for each key: (B,) int64 -> (B, count) float32, on the keys' device.

    `stream` separates the uses of one key: a view number, a mask, an order.
    """
    counters = torch.arange(count, device=keys.device, dtype=torch.int64)
    bits = fold(fold(keys, stream)[:, None], counters[None, :])
    # A float32 holds 24 bits exactly: every device gives the same number, and 1.0 is never reached.
    return _shift_right(bits, 40).to(torch.float32) * 2.0**-24


def normal(keys: Tensor, stream: int, count: int) -> Tensor:
    """Draw `count` standard normal numbers for each key (Box and Muller): (B,) int64 -> (B, count) float32."""
    draws = uniform(keys, stream, 2 * count)
    radius = torch.sqrt(-2.0 * torch.log1p(-draws[:, :count]))
    return radius * torch.cos(2.0 * math.pi * draws[:, count:])


def permutation(seed: int, epoch: int, size: int) -> Tensor:
    """Permute 0 .. size - 1 by sorting the samples' keys: int64 on the CPU."""
    return torch.argsort(sample_keys(seed, epoch, torch.arange(size)), stable=True)
