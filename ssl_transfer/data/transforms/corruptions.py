"""Corrupt images in five severities to measure a model's robustness.

Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", ICLR 2019.
These are six of their fifteen, of all four kinds, with the strengths of their code for small images (CIFAR-10-C,
`make_cifar_c.py`). The blur scales with the image. The corruptions work on whole batches of any number of channels, at
the model's input size. So the numbers are neither ImageNet-C's nor CIFAR-10-C's: compare them with each other only. The
noise of an image is a function of its key (`engine.randomness`); the other corruptions are not random.

Shapes: B images, C channels, H x W pixels. Values are float32, 0..1 before and after.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_transfer.engine.randomness import normal

from . import operations

SEVERITIES = (1, 2, 3, 4, 5)
STRENGTHS = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg": (80, 65, 58, 50, 40),
}
"""In order: deviation of the noise; sigma of the blur in pixels of an image of 32; increase of the HSV value; remaining
share of the contrast; remaining share of the pixels a side; quality of the JPEG file."""
_STREAM = 101
_NOISE_VALUES = 2**21
"""Random numbers drawn at a time, as each takes the memory of several."""


def corrupt(images: Tensor, keys: Tensor, *, name: str, severity: int) -> Tensor:
    """Corrupt a batch; the result is a new batch of the same shape.

    Args:
        images: (B, C, H, W) float32 in 0..1; values outside are clamped.
        keys: (B,) int64, from `sample_keys`.
        name: one of `STRENGTHS`.
        severity: 1 to 5.
    """
    strength = STRENGTHS[name][severity - 1]
    images = images.clamp(0.0, 1.0)
    if name == "gaussian_noise":
        return _noise(images, keys, strength)
    if name == "gaussian_blur":
        return _blur(images, strength * min(images.shape[2:]) / 32)
    if name == "brightness":
        return _brightness(images, strength)
    if name == "contrast":
        mean = images.mean(dim=(2, 3), keepdim=True)
        return (images - mean) * strength + mean
    return _pixelate(images, strength) if name == "pixelate" else _jpeg(images, int(strength))


def _noise(images: Tensor, keys: Tensor, deviation: float) -> Tensor:
    count = images[0].numel()
    chunks = keys.split(max(1, _NOISE_VALUES // count))
    noise = torch.cat([normal(chunk, _STREAM, count) for chunk in chunks]).view(images.shape)
    return noise.mul_(deviation).add_(images).clamp_(0.0, 1.0)


def _blur(images: Tensor, sigma: float) -> Tensor:
    sigmas = torch.full((len(images),), sigma, device=images.device)
    # The kernel reaches two of `largest`, so four sigma.
    rows, columns = (operations.gaussian(sigmas, length, largest=2.0 * sigma) for length in images.shape[2:])
    return operations.filtered(images.contiguous(), *rows, *columns).clamp_(0.0, 1.0)


def _brightness(images: Tensor, added: float) -> Tensor:
    """Raise the value of HSV, a pixel's largest channel; hue and saturation stay."""
    value = images.amax(dim=1, keepdim=True) if images.shape[1] == 3 else images
    risen = (value + added).clamp(max=1.0)
    # Black has no hue: it becomes grey.
    return torch.where(value > 0.0, images * (risen / value.clamp(min=1e-6)), risen)


def _pixelate(images: Tensor, share: float) -> Tensor:
    size = tuple(max(1, int(length * share)) for length in images.shape[2:])
    small = F.interpolate(images, size=size, mode="area")
    return F.interpolate(small, size=tuple(images.shape[2:]), mode="nearest-exact")


_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 32),
)
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def _jpeg(images: Tensor, quality: int) -> Tensor:
    """Simulate JPEG's loss: round the cosine transform of blocks of 8 x 8 (ITU-T T.81, annexes A and K).

    Colours keep their full resolution. Of images without three channels each channel is a grey image.
    """
    colour, device = images.shape[1] == 3, images.device
    height, width = images.shape[2:]
    values = F.pad(images * 255.0, (0, -width % 8, 0, -height % 8), mode="replicate").round()
    matrix = torch.tensor(_TO_YCC, device=device)
    if colour:
        values = torch.einsum("dc,bchw->bdhw", matrix, values)
        values[:, 1:] += 128.0
    blocks = values.round().unfold(2, 8, 8).unfold(3, 8, 8) - 128.0
    # libjpeg's rule for what a quality makes of the standard's tables.
    factor = 50.0 / quality if quality < 50 else 2.0 - quality / 50.0
    tables = torch.tensor([_LUMINANCE, _CHROMINANCE], device=device, dtype=torch.float32).view(2, 1, 1, 8, 8)
    tables = (tables * factor + 0.5).floor().clamp(1.0, 255.0)
    table = tables[[0, 1, 1]] if colour else tables[:1]
    cosine = _cosine(device)
    kept = (cosine @ blocks @ cosine.mT / table).round() * table
    blocks = (cosine.mT @ kept @ cosine + 128.0).round().clamp(0.0, 255.0)
    values = blocks.transpose(3, 4).reshape(values.shape)
    if colour:
        values[:, 1:] -= 128.0
        values = torch.einsum("dc,bchw->bdhw", torch.linalg.inv(matrix), values)
    return values[:, :, :height, :width].round().div(255.0).clamp(0.0, 1.0)


def _cosine(device: torch.device) -> Tensor:
    """Build the orthonormal discrete cosine transform of 8 values: (8, 8)."""
    place = torch.arange(8, device=device)
    matrix = 0.5 * torch.cos((2 * place + 1) * place[:, None] * (math.pi / 16))
    matrix[0] *= math.sqrt(0.5)
    return matrix
