"""Each operation against torchvision's on the same parameters, image by image."""

import math

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from ssl_transfer.data.transforms import operations
from ssl_transfer.data.transforms.augment import AugmentConfig, augment, crop_matrices
from ssl_transfer.engine.randomness import sample_keys, uniform

CHANNELS = pytest.mark.parametrize("channels", [1, 3, 5])


def photographs(channels: int = 3, count: int = 6, height: int = 20, width: int = 20) -> torch.Tensor:
    """(B, C, H, W) in 0..1, with pixels at both ends, grey pixels, and pixels with two equal values."""
    images = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0))
    images = (images * 1.2 - 0.1).clamp_(0.0, 1.0)
    images[:, :, 0] = images[:, :1, 0]
    images[:, -1, 1] = images[:, 0, 1]
    return images


def matrices(**settings: float) -> tuple[torch.Tensor, AugmentConfig]:
    """`crop_matrices` of six whole images, each with its own turn, slant and flips, and the settings."""
    config = AugmentConfig(**{"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0, **settings})
    draws = torch.rand(8, 6, generator=torch.Generator().manual_seed(1))
    return crop_matrices(tuple(draws.unbind()), config), config


@CHANNELS
@pytest.mark.parametrize("size", [7, 16, 24, 50])
def test_crop(channels, size):
    images = photographs(channels, height=40, width=36)
    boxes = ((0, 0, 40, 36), (3, 5, 30, 20), (10, 0, 1, 36), (39, 35, 1, 1), (8, 8, 16, 24), (1, 2, 39, 11))
    for mirrored in (1.0, -1.0):
        theta = torch.zeros(6, 2, 3)
        for row, (top, left, height, width) in enumerate(boxes):
            theta[row, 0, 0], theta[row, 0, 2] = mirrored * width / 36, (2 * left + width) / 36 - 1
            theta[row, 1, 1], theta[row, 1, 2] = height / 40, (2 * top + height) / 40 - 1
        rows = operations.resampling(theta[:, 1, 1], theta[:, 1, 2], 40, size)
        columns = operations.resampling(theta[:, 0, 0], theta[:, 0, 2], 36, size)
        views = operations.filtered(images, *rows, *columns)
        for image, view, box in zip(images, views, boxes, strict=True):
            expected = reference.resized_crop(image, *box, size=[size, size], antialias=True)
            expected = reference.horizontal_flip(expected) if mirrored < 0 else expected
            assert torch.allclose(view, expected, atol=1e-5)


@CHANNELS
@pytest.mark.parametrize("settings", [{"flip": 1.0}, {"vertical_flip": 1.0}, {"flip": 1.0, "vertical_flip": 1.0}])
def test_flips(channels, settings):
    images, (theta, _) = photographs(channels), matrices(**settings)
    expected = reference.horizontal_flip(images) if "flip" in settings else images
    expected = reference.vertical_flip(expected) if "vertical_flip" in settings else expected
    found = operations.affine(images, theta, size=20, padding="zeros")
    assert torch.allclose(found, expected, atol=1e-5)


@CHANNELS
@pytest.mark.parametrize("largest", [20.0, 180.0])
def test_rotation(channels, largest):
    images, (theta, _) = photographs(channels), matrices(rotation=largest)
    found = operations.affine(images, theta, size=20, padding="zeros")
    angles = torch.rand(8, 6, generator=torch.Generator().manual_seed(1))[5] * 2 * largest - largest
    for image, view, angle in zip(images, found, angles.tolist(), strict=True):
        expected = reference.rotate(image, angle, interpolation=InterpolationMode.BILINEAR)
        assert torch.allclose(view, expected, atol=1e-4)


@CHANNELS
def test_shear(channels):
    images, (theta, _) = photographs(channels), matrices(shear=30.0)
    found = operations.affine(images, theta, size=20, padding="zeros")
    angles = torch.rand(8, 6, generator=torch.Generator().manual_seed(1))[6] * 60 - 30
    for image, view, angle in zip(images, found, angles.tolist(), strict=True):
        expected = reference.affine(
            image, 0.0, [0, 0], 1.0, shear=[angle, 0.0], interpolation=InterpolationMode.BILINEAR
        )
        assert torch.allclose(view, expected, atol=1e-4)


FACTORS = torch.tensor([0.0, 0.2, 0.9, 1.0, 1.4, 2.0])


@CHANNELS
def test_brightness(channels):
    found = operations.brightness_(photographs(channels), FACTORS)
    for image, view, factor in zip(photographs(channels), found, FACTORS.tolist(), strict=True):
        # torchvision takes one or three channels; brightness asks no channel about another.
        expected = torch.cat([reference.adjust_brightness(channel[None], factor) for channel in image])
        assert torch.allclose(view, expected, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast(channels):
    found = operations.contrast_(photographs(channels), FACTORS)
    for image, view, factor in zip(photographs(channels), found, FACTORS.tolist(), strict=True):
        assert torch.allclose(view, reference.adjust_contrast(image, factor), atol=1e-5)


def test_contrast_of_other_channels_is_around_their_mean():
    images = photographs(5)
    means = images.mean(dim=(1, 2, 3), keepdim=True)
    expected = (means + FACTORS[:, None, None, None] * (images - means)).clamp(0.0, 1.0)
    assert torch.allclose(operations.contrast_(images, FACTORS), expected, atol=1e-5)


def test_saturation():
    found = operations.saturation_(photographs(), FACTORS)
    for image, view, factor in zip(photographs(), found, FACTORS.tolist(), strict=True):
        assert torch.allclose(view, reference.adjust_saturation(image, factor), atol=1e-5)


@pytest.mark.parametrize("reach", [0.05, 0.2, 0.5])
def test_hue(reach):
    turns = torch.linspace(-reach, reach, 6)
    found = operations.hue_(photographs(), turns)
    for image, view, turn in zip(photographs(), found, turns.tolist(), strict=True):
        assert torch.allclose(view, reference.adjust_hue(image, turn), atol=1e-5)


def test_greyscale():
    expected = reference.rgb_to_grayscale(photographs(), num_output_channels=3)
    assert torch.allclose(operations.saturation_(photographs(), torch.zeros(6)), expected, atol=1e-5)
    assert torch.allclose(operations.greyscale(photographs()), expected[:, :1], atol=1e-6)


@CHANNELS
@pytest.mark.parametrize("largest", [0.3, 1.0, 2.0, 15.0])
def test_blur(channels, largest):
    sigma = largest * torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
    images = photographs(channels)
    rows, columns = (operations.gaussian(sigma, length, largest=largest) for length in (20, 20))
    radius = operations.kernel_radius(largest, 20)
    assert radius == min(19, max(1, math.ceil(2 * largest)))
    for found in (
        operations.filtered(images, *rows, *columns),
        operations.filtered(images.transpose(2, 3).contiguous().transpose(2, 3), *rows, *columns),
    ):
        for image, view, deviation in zip(images, found, sigma.tolist(), strict=True):
            expected = reference.gaussian_blur(image, kernel_size=[2 * radius + 1] * 2, sigma=[deviation] * 2)
            assert torch.allclose(view, expected, atol=1e-5)


def test_blur_of_no_pixels_changes_nothing():
    images = photographs()
    filters = operations.gaussian(torch.zeros(6), 20, largest=2.0)
    assert torch.equal(operations.filtered(images, *filters, *filters), images)


@CHANNELS
def test_solarise(channels):
    images, thresholds = photographs(channels), torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0, math.inf])
    found = operations.solarise(images, thresholds)
    for image, view, threshold in zip(images, found, thresholds.tolist(), strict=True):
        expected = (
            image if threshold == math.inf else torch.cat([reference.solarize(c[None], threshold) for c in image])
        )
        assert torch.allclose(view, expected, atol=1e-6)


@pytest.mark.parametrize("view", [0, 1])
def test_a_whole_view(view):
    """`augment` against torchvision's operations one after the other, on the parameters that the keys give."""
    config = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), solarise=0.3, blur_sigma=(5.0, 20.0))
    images, keys, size = photographs(count=64, height=24, width=24), sample_keys(3, 1, torch.arange(64)), 20
    found = augment(images, keys, view=view, size=size, config=config)
    largest = 20.0 * size / 224
    kernel = [2 * math.ceil(2 * largest) + 1] * 2
    for image, result, draw in zip(images, found, uniform(keys, view, 18).tolist(), strict=True):
        expected = reference.resized_crop(image, 0, 0, 24, 24, size=[size, size], antialias=True)
        if draw[4] < config.flip:
            expected = reference.horizontal_flip(expected)
        if draw[7] < config.jitter:
            expected = reference.adjust_brightness(expected, 0.6 + 0.8 * draw[8])
            expected = reference.adjust_contrast(expected, 0.6 + 0.8 * draw[9])
            expected = reference.adjust_saturation(expected, 0.6 + 0.8 * draw[10])
            expected = reference.adjust_hue(expected, 0.2 * draw[11] - 0.1)
        if draw[12] < config.grey:
            expected = reference.rgb_to_grayscale(expected, num_output_channels=3)
        if draw[13] < config.blur_at(size):
            expected = reference.gaussian_blur(expected, kernel, [(5.0 + 15.0 * draw[14]) * size / 224] * 2)
        if draw[15] < config.solarise:
            # A value next to the threshold may fall to either side of it.
            assert ((result - reference.solarize(expected, 0.5)).abs() < 1e-4).float().mean() > 0.999
        else:
            assert torch.allclose(result, expected, atol=1e-4)
