"""Augment images in batches, on the device.

Every parameter is a function of the image's key and the view's number (`engine.randomness`). So views are the same at
any number of processes and on any device. The operations are torchvision's (`operations.py`), in the order of SimCLR
(Chen et al. 2020, appendix A). Whole batches require these differences:

- crops are clamped to the image instead of being drawn again, and their edges may lie within pixels;
- jitter has the fixed order brightness, contrast, saturation, hue.

Shapes: B images, C channels, H x W stored pixels, S pixels a side of a view.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import uniform

from . import operations

CHUNK_VALUES = 2**19
"""Number of values processed at a time on a CPU: they stay in its cache from one operation to the next."""

LEAST_BLUR = 0.5
"""Standard deviation in pixels below which a blur changes little. At 0.3, the largest of the defaults at 32 px, a pixel
takes under 1 % from each neighbour."""

Step = tuple[Callable[..., Tensor], tuple[Tensor, ...]]
"""Operation and its parameters; the first dimension of each parameter is the batch."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of an image before a model reads it. The defaults suit photographs."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the image's area that a crop shows. Above 1 the crop exceeds the image (`padding`
    fills the rest), so the object becomes smaller."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Smallest and largest ratio of a crop's width to its height."""
    padding: Literal["reflection", "border", "zeros"] = "reflection"
    """Fill of the area outside the image, where a turned or large crop shows it: its mirror image, its edge, or
    black."""
    flip: float = 0.5
    """Probability of a horizontal flip. 0 where left and right differ in meaning, as in digits."""
    vertical_flip: float = 0.0
    """Probability of a vertical flip, for images without an upper side."""
    rotation: float = 0.0
    """Largest rotation in degrees, either way."""
    shear: float = 0.0
    """Largest horizontal shear in degrees, either way."""
    jitter: float = 0.8
    """Probability of any colour jitter."""
    brightness: float = 0.4
    """Jitter of the brightness: a factor in 1 - x .. 1 + x."""
    contrast: float = 0.4
    """Jitter of the contrast: a factor in 1 - x .. 1 + x."""
    saturation: float = 0.4
    """Jitter of the saturation: a factor in 1 - x .. 1 + x. Only for images of three channels."""
    hue: float = 0.1
    """Jitter of the hue: a rotation by -x .. x of the full circle. Only for images of three channels."""
    grey: float = 0.2
    """Probability that an image of three channels becomes grey."""
    blur: float | None = None
    """Probability of a Gaussian blur. None depends on the size of the views: 0.5 (Chen et al. 2020, appendix A), and 0
    where even the largest blur is below half a pixel, by default under 56 px (appendix B.9: none on CIFAR-10)."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation of the blur, in pixels of a 224 px view; scaled to the view's size."""
    solarise: float = 0.0
    """Probability that values above the threshold become 1 minus them."""
    solarise_threshold: float = 0.5
    """Threshold of solarising, 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("flip", "vertical_flip", "jitter", "grey", "blur", "solarise"):
            if not 0.0 <= (getattr(self, name) or 0.0) <= 1.0:
                raise InputError(f"augment {name} {getattr(self, name)}: a probability, 0 to 1.")
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high:
                raise InputError(f"augment {name} {low} {high}: two numbers above 0, the smaller first.")
        for name in ("brightness", "contrast", "saturation", "solarise_threshold"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"augment {name} {getattr(self, name)}: 0 to 1.")
        if not 0.0 <= self.hue <= 0.5:
            raise InputError(f"augment hue {self.hue}: 0 to 0.5.")
        if not (0.0 <= self.rotation <= 180.0 and 0.0 <= self.shear < 90.0):
            raise InputError(f"augment rotation {self.rotation}, shear {self.shear}: degrees, to 180 and below 90.")

    def blur_at(self, size: int) -> float:
        """Return the probability of a blur in views of `size` pixels a side."""
        if self.blur is not None:
            return self.blur
        return 0.5 if self.blur_sigma[1] * size / 224 >= LEAST_BLUR else 0.0


SUPERVISED_DEFAULT = AugmentConfig(
    crop_scale=(0.5, 1.0), jitter=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, grey=0.0, blur=0.0
)
"""Default of the transfer stage: crops and flips."""
RECONSTRUCTION_DEFAULT = SUPERVISED_DEFAULT
"""Default of MAE and the autoencoder: crops and flips suffice (He et al. 2022, section 4.1, data augmentation)."""


def ignored(config: AugmentConfig, num_channels: int) -> list[str]:
    """List the enabled operations that have no effect on images with this number of channels."""
    if num_channels == 3:
        return []
    asked = {
        "saturation": config.jitter * config.saturation,
        "hue": config.jitter * config.hue,
        "grey": config.grey,
    }
    return [name for name, strength in asked.items() if strength]


def augment(images: Tensor, keys: Tensor, *, view: int, size: int, config: AugmentConfig) -> Tensor:
    """Draw one random view of each image.

    Args:
        images: (B, C, H, W) float32 in 0..1; not changed.
        keys: (B,) int64, one for each image and epoch.
        view: number of the view; another number gives another view.
        size: S, pixels a side.
        config: enabled operations and their strengths.

    Returns:
        (B, C, S, S) float32 in 0..1.
    """
    # Low precision would move pixels: a grid in bfloat16 has 256 places from edge to centre.
    with torch.autocast(images.device.type, enabled=False):
        steps = _steps(uniform(keys, view, 18).unbind(dim=1), images.shape, size, config)
        values = images.shape[1] * max(images.shape[2] * images.shape[3], size * size)
        chunk = max(1, CHUNK_VALUES // values) if images.device.type == "cpu" else len(images)
        views = []
        for start in range(0, len(images), chunk):
            part = slice(start, start + chunk)
            pixels = images[part]
            for operation, parameters in steps:
                pixels = operation(pixels, *(parameter[part] for parameter in parameters))
            views.append(pixels)
        return torch.cat(views)


def _steps(draws: tuple[Tensor, ...], shape: torch.Size, size: int, config: AugmentConfig) -> list[Step]:
    """List the operations on (B, C, H, W) images, in order; the first makes a new tensor, others may work in place.

    `draws`: eighteen (B,) tensors in 0..1. Each has one use, so that no setting changes another one's draw.
    """
    channels, height, width = shape[1:]
    steps = _geometry(crop_matrices((*draws[0:7], draws[16]), config), height, width, size, config)
    if config.jitter:
        steps += _jitter(draws[7:12], channels, config)
    if config.grey and channels == 3:
        steps.append((operations.saturation_, (torch.where(draws[12] < config.grey, 0.0, 1.0),)))
    blur_probability = config.blur_at(size)
    if blur_probability:
        sigma = torch.where(draws[13] < blur_probability, _between(draws[14], config.blur_sigma) * (size / 224), 0.0)
        blur = operations.gaussian(sigma, size, largest=config.blur_sigma[1] * (size / 224))
        steps.append((operations.filtered, (*blur, *blur)))
    if config.solarise:
        threshold = torch.where(draws[15] < config.solarise, config.solarise_threshold, math.inf)
        steps.append((operations.solarise, (threshold,)))
    return steps


def _geometry(theta: Tensor, height: int, width: int, size: int, config: AugmentConfig) -> list[Step]:
    """List the operations from (B, C, H, W) to (B, C, S, S): exact where views are boxes within their images."""
    if not (config.rotation or config.shear or config.crop_scale[1] > 1.0):
        rows = operations.resampling(theta[:, 1, 1], theta[:, 1, 2], height, size)
        columns = operations.resampling(theta[:, 0, 0], theta[:, 0, 2], width, size)
        return [(operations.filtered, (*rows, *columns))]
    reach = math.sqrt(max(1.0, config.crop_scale[1])) * (1.0 + math.tan(math.radians(config.shear)))
    largest = reach * max(height, width) / size
    steps: list[Step] = []
    if largest > 1.0:
        steps.append((operations.filtered, operations.prefilter(theta, height, width, size, largest=largest)))
    return [*steps, (partial(operations.affine, size=size, padding=config.padding), (theta,))]


def evaluation_view(images: Tensor, *, size: int, interpolation: str = "bilinear") -> Tensor:
    """Crop and resize for evaluation, without randomness: (B, C, H, W) float32 in 0..1 -> (B, C, S, S).

    Images stored larger than S lose their margin, at most an eighth, and are shrunk where they are larger still.
    Smaller ones are enlarged.

    Args:
        images: stored images.
        size: S, pixels a side.
        interpolation: bilinear or bicubic, as in the training of the weights (`BackboneSpec.interpolation`).
    """
    if min(images.shape[2:]) < size:
        return _resized(images, size, interpolation, antialias=False)
    height, width = (max(size, length * 7 // 8) for length in images.shape[2:])
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    centre = images[:, :, top : top + height, left : left + width]
    if (height, width) == (size, size):
        return centre
    return _resized(centre, size, interpolation, antialias=True)


def _resized(images: Tensor, size: int, interpolation: str, *, antialias: bool) -> Tensor:
    resized = F.interpolate(images, size=(size, size), mode=interpolation, align_corners=False, antialias=antialias)
    if interpolation == "bilinear":
        return resized
    # Bicubic weights are partly negative: beside an edge they leave the range of the image.
    return torch.minimum(torch.maximum(resized, images.amin((1, 2, 3), True)), images.amax((1, 2, 3), True))


def _between(draw: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    return low + (high - low) * draw


def _around(draw: Tensor, reach: float) -> Tensor:
    """Map 0..1 to -reach..reach."""
    return (2.0 * draw - 1.0) * reach


def crop_matrices(draws: tuple[Tensor, ...], config: AugmentConfig) -> Tensor:
    """Build (B, 2, 3) matrices of crop, flip, rotation and shear, from a view's coordinates to the image's, both -1..1.

    `draws`: eight (B,) tensors in 0..1: area, ratio, centre x, centre y, flip, rotation, shear, vertical flip.
    """
    area = _between(draws[0], config.crop_scale)
    ratio = torch.exp(_between(draws[1], (math.log(config.crop_ratio[0]), math.log(config.crop_ratio[1]))))
    most = max(1.0, math.sqrt(config.crop_scale[1]))
    half_width = torch.sqrt(area * ratio).clamp(max=most)
    half_height = torch.sqrt(area / ratio).clamp(max=most)
    centre_x = _around(draws[2], 1.0) * (1.0 - half_width).abs()
    centre_y = _around(draws[3], 1.0) * (1.0 - half_height).abs()
    mirror = torch.where(draws[4] < config.flip, -1.0, 1.0)
    upturn = torch.where(draws[7] < config.vertical_flip, -1.0, 1.0)
    turn = torch.deg2rad(_around(draws[5], config.rotation))
    slant = torch.tan(torch.deg2rad(_around(draws[6], config.shear)))
    cos, sin = torch.cos(turn), torch.sin(turn)
    # image = rotation @ shear @ scale @ view + centre
    scale_x, scale_y = half_width * mirror, half_height * upturn
    rows = [
        torch.stack([cos * scale_x, (cos * slant - sin) * scale_y, centre_x], dim=1),
        torch.stack([sin * scale_x, (sin * slant + cos) * scale_y, centre_y], dim=1),
    ]
    return torch.stack(rows, dim=1)


def _jitter(draws: tuple[Tensor, ...], channels: int, config: AugmentConfig) -> list[Step]:
    """List the jitter of brightness, contrast and, for three channels, saturation and hue.

    `draws`: one that enables the jitter, then one for each operation.
    """
    applied = draws[0] < config.jitter

    def factor(draw: Tensor, reach: float) -> tuple[Tensor]:
        return (torch.where(applied, 1.0 + _around(draw, reach), 1.0),)

    steps: list[Step] = []
    if config.brightness:
        steps.append((operations.brightness_, factor(draws[1], config.brightness)))
    if config.contrast:
        steps.append((operations.contrast_, factor(draws[2], config.contrast)))
    if config.saturation and channels == 3:
        steps.append((operations.saturation_, factor(draws[3], config.saturation)))
    if config.hue and channels == 3:
        steps.append((operations.hue_, (torch.where(applied, _around(draws[4], config.hue), 0.0),)))
    return steps
