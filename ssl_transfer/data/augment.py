"""Augmentation in batch, on the device: one resampling, one colour matrix, one blur for a whole batch.

Every parameter is a function of the image's key and the view's number (`engine.randomness`), so views are the same at
any number of processes and on any device. The operations are those of SimCLR (Chen et al. 2020, appendix A), with
these differences for the sake of one pass each: crops are clamped to the image instead of being drawn again; jitter
comes in the fixed order brightness, contrast, saturation, hue, and values are clamped once, after it; hue turns the
colour in YIQ space.

Shapes: B images, C channels, H x W stored pixels, S pixels a side of a view.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine.errors import InputError
from ..engine.randomness import uniform

_LUMA = (0.299, 0.587, 0.114)
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What happens to an image before a model sees it. The defaults suit photographs."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the image's area that a crop shows. Above 1 it shows what lies around the image
    too (`padding`), so the object becomes smaller."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Smallest and largest ratio of a crop's width to its height."""
    padding: Literal["reflection", "border", "zeros"] = "reflection"
    """What lies outside the image, where a turned or large crop shows it: its mirror image, its edge, or black."""
    flip: float = 0.5
    """Probability of a horizontal flip. 0 where left and right mean something, as in digits."""
    rotation: float = 0.0
    """Largest turn in degrees, either way."""
    shear: float = 0.0
    """Largest horizontal shear in degrees, either way."""
    jitter: float = 0.8
    """Probability that colours are jittered at all."""
    brightness: float = 0.4
    """Jitter of the brightness: a factor in 1 - x .. 1 + x."""
    contrast: float = 0.4
    """Jitter of the contrast: a factor in 1 - x .. 1 + x."""
    saturation: float = 0.4
    """Jitter of the saturation: a factor in 1 - x .. 1 + x. Only for images of three channels."""
    hue: float = 0.1
    """Jitter of the hue: a turn of -x .. x of the full circle. Only for images of three channels."""
    grey: float = 0.2
    """Probability that an image of three channels loses its colours."""
    blur: float = 0.5
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation of the blur, in pixels of a 224 px view; scaled to the view's size."""

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "grey", "blur"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"augment {name} {getattr(self, name)}: a probability, 0 to 1.")
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high:
                raise InputError(f"augment {name} {low} {high}: two numbers above 0, the smaller first.")
        for name in ("brightness", "contrast", "saturation"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"augment {name} {getattr(self, name)}: 0 to 1.")
        if not 0.0 <= self.hue <= 0.5:
            raise InputError(f"augment hue {self.hue}: 0 to 0.5.")


SUPERVISED_DEFAULT = AugmentConfig(
    crop_scale=(0.5, 1.0), jitter=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, grey=0.0, blur=0.0
)
"""For the transfer stage: crops and flips."""
RECONSTRUCTION_DEFAULT = SUPERVISED_DEFAULT
"""For MAE and the autoencoder: He et al. 2022, section 4.1 (data augmentation): crops and flips suffice."""


def augment(images: Tensor, keys: Tensor, *, view: int, size: int, config: AugmentConfig) -> Tensor:
    """One random view of each image.

    Args:
        images: (B, C, H, W) uint8.
        keys: (B,) int64, one for each image and epoch.
        view: number of the view; another number is another view.
        size: S, pixels a side.
        config: which operations, how strong.

    Returns:
        (B, C, S, S) float32 in 0..1.
    """
    # Low precision would move pixels: a grid in bfloat16 has 256 places from edge to centre.
    with torch.autocast(images.device.type, enabled=False):
        draws = uniform(keys, view, 16).unbind(dim=1)
        pixels = images.to(torch.float32).div_(255.0)
        theta = crop_matrices(draws[0:7], config)
        grid = F.affine_grid(theta, [len(images), images.shape[1], size, size], align_corners=False)
        pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode=config.padding, align_corners=False)
        if config.jitter or config.grey:
            pixels = _colour(pixels, draws[7:13], config)
        if config.blur:
            sigma = _between(draws[14], config.blur_sigma) * (size / 224)
            pixels = _blur(pixels, draws[13] < config.blur, sigma, largest=config.blur_sigma[1] * (size / 224))
        return pixels


def evaluation_view(images: Tensor, *, size: int) -> Tensor:
    """What a model sees in evaluation: (B, C, H, W) uint8 -> (B, C, S, S) float32 in 0..1, no randomness.

    Images stored larger than S lose their margin; smaller ones are enlarged bilinearly.
    """
    pixels = images.to(torch.float32).div_(255.0)
    height, width = images.shape[2:]
    if height >= size and width >= size:
        top, left = (height - size) // 2, (width - size) // 2
        return pixels[:, :, top : top + size, left : left + size]
    return F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)


def _between(draw: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    return low + (high - low) * draw


def _around(draw: Tensor, reach: float) -> Tensor:
    """From 0..1 to -reach..reach."""
    return (2.0 * draw - 1.0) * reach


def crop_matrices(draws: tuple[Tensor, ...], config: AugmentConfig) -> Tensor:
    """Crop, flip, turn and shear as (B, 2, 3) matrices from a view's coordinates to the image's, both -1..1.

    `draws`: seven (B,) tensors in 0..1: area, ratio, centre x, centre y, flip, turn, shear.
    """
    area = _between(draws[0], config.crop_scale)
    ratio = torch.exp(_between(draws[1], (math.log(config.crop_ratio[0]), math.log(config.crop_ratio[1]))))
    most = max(1.0, math.sqrt(config.crop_scale[1]))
    half_width = torch.sqrt(area * ratio).clamp(max=most)
    half_height = torch.sqrt(area / ratio).clamp(max=most)
    centre_x = _around(draws[2], 1.0) * (1.0 - half_width).abs()
    centre_y = _around(draws[3], 1.0) * (1.0 - half_height).abs()
    mirror = torch.where(draws[4] < config.flip, -1.0, 1.0)
    turn = torch.deg2rad(_around(draws[5], config.rotation))
    slant = torch.tan(torch.deg2rad(_around(draws[6], config.shear)))
    cos, sin = torch.cos(turn), torch.sin(turn)
    # image = rotation @ shear @ scale @ view + centre
    rows = [
        torch.stack([cos * half_width * mirror, (cos * slant - sin) * half_height, centre_x], dim=1),
        torch.stack([sin * half_width * mirror, (sin * slant + cos) * half_height, centre_y], dim=1),
    ]
    return torch.stack(rows, dim=1)


def _colour(pixels: Tensor, draws: tuple[Tensor, ...], config: AugmentConfig) -> Tensor:
    """Brightness, contrast and, for three channels, saturation, hue and greyscale; clamped to 0..1."""
    applied = draws[0] < config.jitter
    brightness = torch.where(applied, 1.0 + _around(draws[1], config.brightness), 1.0)
    contrast = torch.where(applied, 1.0 + _around(draws[2], config.contrast), 1.0)
    factor = (brightness * contrast)[:, None, None, None]
    means = pixels.mean(dim=(2, 3))
    if pixels.shape[1] != 3:
        grey_level = brightness * means.mean(dim=1)
        return (pixels * factor + ((1.0 - contrast) * grey_level)[:, None, None, None]).clamp_(0.0, 1.0)
    luma = torch.tensor(_LUMA, device=pixels.device)
    grey_level = brightness * (means @ luma)
    # Turning grey into grey, both matrices leave the contrast's offset as it is.
    to_grey = luma.expand(3, 3)
    saturation = torch.where(applied, 1.0 + _around(draws[3], config.saturation), 1.0)
    saturation = torch.where(draws[5] < config.grey, 0.0, saturation)[:, None, None]
    matrix = saturation * torch.eye(3, device=pixels.device) + (1.0 - saturation) * to_grey
    if config.hue:
        angle = torch.where(applied, _around(draws[4], config.hue), 0.0) * (2.0 * math.pi)
        matrix = _hue_matrices(angle) @ matrix
    mixed = torch.einsum("bij,bjhw->bihw", matrix * factor[:, 0], pixels)
    return (mixed + ((1.0 - contrast) * grey_level)[:, None, None, None]).clamp_(0.0, 1.0)


def _hue_matrices(angle: Tensor) -> Tensor:
    """(B,) radians -> (B, 3, 3): a turn of the chroma plane of YIQ, written in RGB."""
    to_yiq = torch.tensor(_RGB_TO_YIQ, device=angle.device)
    cos, sin, zero, one = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq


def _blur(pixels: Tensor, applied: Tensor, sigma: Tensor, *, largest: float) -> Tensor:
    """Gaussian blur of the images that `applied` (B,) names, each with its own sigma in pixels; edges reflected.

    Kernels reach two deviations of the `largest` sigma there can be, so no image depends on the others of its batch.
    """
    chosen = applied.nonzero().squeeze(1)
    if not len(chosen):
        return pixels
    size = pixels.shape[-1]
    radius = min(size - 1, max(1, math.ceil(2.0 * largest)))
    offsets = torch.arange(-radius, radius + 1, device=pixels.device, dtype=torch.float32)
    kernels = torch.softmax(-0.5 * (offsets / sigma[chosen, None]).square(), dim=1)
    count, channels = len(chosen), pixels.shape[1]
    kernels = kernels.repeat_interleave(channels, dim=0)[:, None, None, :]
    flat = F.pad(pixels[chosen].reshape(1, count * channels, size, size), [radius] * 4, mode="reflect")
    flat = F.conv2d(flat, kernels, groups=count * channels)
    flat = F.conv2d(flat, kernels.transpose(2, 3), groups=count * channels)
    return pixels.index_copy(0, chosen, flat.view(count, channels, size, size))
