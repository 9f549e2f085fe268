"""Apply operations to a whole batch, each image with its own parameters; no loop over images, no wait for the device.

Each equals torchvision's (`transforms.v2.functional`) on the same parameters (tested in `tests/parity`). Rows and
columns are filtered by `embedding_bag`, a gather with weights. Of a resampling matrix only the few non-zero entries are
read. That is several times faster than matrices or a convolution with one kernel an image.

Shapes: B images, C channels, H x W pixels, S pixels a side of a view, T taps of a filter. Values are float32. Colour
operations work in place where their names end in _, as torch's do, and all but `solarise` clamp to 0..1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)


def filtered(
    images: Tensor, rows_index: Tensor, rows_weights: Tensor, columns_index: Tensor, columns_weights: Tensor
) -> Tensor:
    """Filter rows and columns by weighted sums, each image with its own (from `resampling` or `gaussian`).

    Args:
        images: (B, C, H, W) float32.
        rows_index: (B, S, T) int64: the input rows of each new row.
        rows_weights: (B, S, T) float32.
        columns_index: (B, S', T') int64, the same for columns.
        columns_weights: (B, S', T') float32.

    Returns:
        (B, C, S, S') float32; rows and columns are transposed in memory.
    """
    if images.stride(3) == 1:
        halfway = _filter_rows(images, rows_index, rows_weights)
        return _filter_rows(halfway.transpose(2, 3), columns_index, columns_weights).transpose(2, 3)
    halfway = _filter_rows(images.transpose(2, 3), columns_index, columns_weights)
    return _filter_rows(halfway.transpose(2, 3), rows_index, rows_weights)


def _filter_rows(images: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Filter rows: (B, C, H, W) with index and weights (B, S, T) -> (B, C, S, W), contiguous."""
    count, channels, height, width = images.shape
    size, taps = index.shape[1:]
    first = torch.arange(0, count * channels * height, height, device=images.device).view(count, channels, 1, 1)
    return F.embedding_bag(
        (index[:, None] + first).view(-1, taps),
        images.reshape(-1, width),
        per_sample_weights=weights[:, None].expand(-1, channels, -1, -1).reshape(-1, taps),
        mode="sum",
    ).view(count, channels, size, width)


def resampling(scale: Tensor, shift: Tensor, length: int, size: int) -> tuple[Tensor, Tensor]:
    """Resample part of a row or column, as `resized_crop(antialias=True)`: bilinear enlarging, antialiased shrinking.

    Args:
        scale: (B,) float32: `scale * view + shift` is the place in the image, both -1..1. A negative scale mirrors.
        shift: (B,) float32. The view must lie inside the image; a pixel that an edge divides counts as whole.
        length: pixels of the image.
        size: S, pixels of the view.

    Returns:
        Index (B, S, T) int64 and weights (B, S, T) float32 for `filtered`.
    """
    half = 0.5 * length
    step = scale.abs()[:, None, None] * (length / size)
    # The triangle of bilinear interpolation, as wide as a pixel of the view where that is more than one of the image.
    reach = step.clamp(min=1.0)
    centres = ((scale[:, None] * _places(size, scale.device) + shift[:, None] + 1.0) * half)[:, None]
    taps = max(2, math.ceil(2 * length / size))
    pixels = torch.floor(centres - reach + 0.5) + torch.arange(taps, device=scale.device)[:, None]
    weights = (1.0 - (pixels + 0.5 - centres).abs_() / reach).clamp_(min=0.0)
    # What lies outside the box is not seen, as after a crop; rounding must not let a pixel in.
    low = torch.floor((shift - scale.abs() + 1.0) * half + 1e-3)[:, None, None]
    high = torch.ceil((shift + scale.abs() + 1.0) * half - 1e-3)[:, None, None]
    weights *= (pixels - (low - 1.0)).clamp_(0.0, 1.0) * (high - pixels).clamp_(0.0, 1.0)
    weights /= weights.sum(dim=1, keepdim=True)
    return pixels.clamp_(0, length - 1).long().mT.contiguous(), weights.mT.contiguous()


def gaussian(sigma: Tensor, length: int, *, largest: float) -> tuple[Tensor, Tensor]:
    """Compute the blur of a row or column, edges reflected: `gaussian_blur`.

    Args:
        sigma: (B,) float32 deviations in pixels; 0 means no blur.
        length: pixels of the image.
        largest: the largest possible sigma. Kernels reach twice as far, so no image depends on the others of its batch.

    Returns:
        Index (B, length, T) int64 and weights (B, length, T) float32 for `filtered`.
    """
    radius = kernel_radius(largest, length)
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = torch.softmax(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]).square(), dim=1)
    pixels = (torch.arange(length, device=sigma.device)[:, None] + offsets).abs()
    index = (length - 1) - ((length - 1) - pixels).abs()
    return index.expand(len(sigma), -1, -1), weights[:, None].expand(-1, length, -1)


def kernel_radius(largest: float, length: int) -> int:
    """Return the pixels to either side that a blur reads: two deviations, limited by the reflection."""
    return min(length - 1, max(1, math.ceil(2.0 * largest)))


def prefilter(theta: Tensor, height: int, width: int, size: int, *, largest: float) -> tuple[Tensor, ...]:
    """Compute the blur before `affine` where it shrinks: four tensors for `filtered`.

    Bilinear sampling is a triangle of variance 1/6 pixels. An antialiasing one as wide as s pixels has s^2/6; the
    Gaussian adds the difference. `largest` is the largest possible s.
    """
    covered = theta[:, :, :2].norm(dim=2) * (torch.tensor([width, height], device=theta.device) / size)
    sigma = ((covered.square() - 1.0).clamp(min=0.0) / 6.0).sqrt()
    most = math.sqrt((largest**2 - 1.0) / 6.0)
    return *gaussian(sigma[:, 1], height, largest=most), *gaussian(sigma[:, 0], width, largest=most)


def affine(images: Tensor, theta: Tensor, *, size: int, padding: str) -> Tensor:
    """Crop, mirror, rotate and shear in one bilinear sampling.

    Args:
        images: (B, C, H, W) float32.
        theta: (B, 2, 3) float32: from a view's places to the image's, both -1..1.
        size: S.
        padding: fill outside the image: reflection, border or zeros.

    Returns:
        (B, C, S, S) float32.
    """
    across = _places(size, theta.device)
    # (B, 2, S, S); `affine_grid` is a product of small matrices, which takes longer than the sampling.
    places = theta[:, :, 0, None, None] * across + (theta[:, :, 1, None] * across + theta[:, :, 2, None])[..., None]
    grid = places.permute(0, 2, 3, 1).contiguous()
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def greyscale(images: Tensor) -> Tensor:
    """Compute the luma (B, 1, H, W) of three-channel images, and the mean of the channels of all others."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def brightness_(images: Tensor, factor: Tensor) -> Tensor:
    """Scale brightness, `adjust_brightness`: (B, C, H, W) and (B,) factors of 0 or more."""
    return images.mul_(_wide(factor)).clamp_(0.0, 1.0)


def contrast_(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance to the mean grey level, `adjust_contrast`: (B, C, H, W) and (B,) factors of 0 or more."""
    return _blend_(images, greyscale(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def saturation_(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance to the image's grey, `adjust_saturation`: (B, 3, H, W) and (B,) factors; 0 is grey."""
    return _blend_(images, greyscale(images), factor)


def _blend_(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Blend in place; `other` may be changed too."""
    return images.mul_(_wide(factor)).add_(other.mul_(1.0 - _wide(factor))).clamp_(0.0, 1.0)


def hue_(images: Tensor, turn: Tensor) -> Tensor:
    """Rotate the hue, `adjust_hue`: (B, 3, H, W) and (B,) shares of the full circle, -0.5..0.5.

    With M the largest and m the smallest of a pixel's three values, C = M - m, h its place on the circle of hues, 0..1,
    turned, and t(c) = clamp(6 |h - c|, 1, 2) - 1, red is m + C t(1/2), green M - C t(1/3) and blue M - C t(2/3).
    """
    red, green, blue = images.unbind(1)
    least = torch.minimum(red, green)
    most = torch.maximum(red, green)
    torch.minimum(least, blue, out=least)
    torch.maximum(most, blue, out=most)
    chroma = most - least
    # Which value is the largest is written as 0 or 1 and chosen by `lerp`: `where` on masks is far slower on a CPU.
    not_green, not_red = (most - green).sign_(), (most - red).sign_()
    place = (blue - red).add_(chroma, alpha=2.0)
    place.lerp_((red - green).add_(chroma, alpha=4.0), not_green)
    place = (green - blue).lerp_(place, not_red)
    least.sub_(chroma)
    most.add_(chroma)
    chroma.mul_(6.0)
    # From -1/6..5/6 to above 0 for every turn; its fraction is the place on the circle.
    place.div_(chroma.clamp(min=1e-12)).add_(turn[:, None, None] + 1.0).frac_()
    for channel, (centre, base, sign) in enumerate(((1 / 2, least, 1), (1 / 3, most, -1), (2 / 3, most, -1))):
        share = torch.sub(place, centre, out=not_red).abs_().clamp_(1 / 6, 2 / 6)
        torch.addcmul(base, share, chroma, value=sign, out=images[:, channel])
    return images


def solarise(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert values at or above their image's threshold (B,) to 1 minus them, `solarize`; infinity: none."""
    return torch.where(images >= _wide(threshold), 1.0 - images, images)


def _places(size: int, device: torch.device) -> Tensor:
    """Return the centres of S pixels, from -1 to 1: (S,) float32."""
    return (2.0 * torch.arange(size, device=device) + 1.0) / size - 1.0


def _wide(values: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1)."""
    return values[:, None, None, None]
