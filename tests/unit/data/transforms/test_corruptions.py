"""Corruptions: against Pillow where it has them, closed forms elsewhere; a function of (seed, image) throughout."""

import colorsys
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ssl_transfer.data.transforms.corruptions import SEVERITIES, STRENGTHS, corrupt
from ssl_transfer.engine.randomness import sample_keys

NAMES = list(STRENGTHS)


def smooth(count: int = 4, *, channels: int = 3, height: int = 37, width: int = 30) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 9, 9, generator=generator)
    return (F.interpolate(coarse, size=(height, width), mode="bilinear") * 255).round() / 255


def keys(count: int = 4) -> torch.Tensor:
    return sample_keys(3, 0, torch.arange(count))


def test_there_are_six_in_five_severities():
    assert len(NAMES) == 6
    assert all(len(values) == len(SEVERITIES) == 5 for values in STRENGTHS.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shape_and_range_stay(name, channels):
    images = smooth(channels=channels)
    before = images.clone()
    for severity in SEVERITIES:
        found = corrupt(images, keys(), name=name, severity=severity)
        assert found.shape == images.shape
        assert found.dtype == torch.float32
        assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "pixelate"])
def test_more_severe_is_further_away(name):
    images = smooth(height=32, width=32)
    distances = [
        float((corrupt(images, keys(), name=name, severity=severity) - images).square().mean())
        for severity in SEVERITIES
    ]
    assert distances == sorted(distances)
    assert distances[0] > 0.0


@pytest.mark.parametrize("name", NAMES)
def test_an_image_does_not_depend_on_its_batch(name):
    images = smooth(5)
    whole = corrupt(images, keys(5), name=name, severity=3)
    alone = corrupt(images[2:3], keys(5)[2:3], name=name, severity=3)
    assert torch.allclose(whole[2:3], alone, atol=1e-6)


def test_noise_has_its_deviation_and_its_seed():
    images = torch.full((8, 3, 32, 32), 0.5)
    found = corrupt(images, keys(8), name="gaussian_noise", severity=5) - images
    assert float(found.std()) == pytest.approx(0.10, rel=0.02)
    assert abs(float(found.mean())) < 0.003
    again = corrupt(images, keys(8), name="gaussian_noise", severity=5) - images
    assert torch.equal(found, again)
    other = corrupt(images, sample_keys(4, 0, torch.arange(8)), name="gaussian_noise", severity=5) - images
    assert abs(float((found * other).mean())) < 0.1 * float(found.square().mean())


def test_brightness_raises_the_value_and_keeps_the_hue():
    images = torch.tensor([[0.2, 0.4, 0.1], [0.0, 0.0, 0.0], [0.9, 0.95, 0.3]]).view(3, 3, 1, 1)
    found = corrupt(images, keys(3), name="brightness", severity=3).view(3, 3)
    for before, after in zip(images.view(3, 3).tolist(), found.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + 0.15)), abs=1e-5)


def test_contrast_keeps_the_mean():
    images = smooth()
    found = corrupt(images, keys(), name="contrast", severity=4)
    assert torch.allclose(found.mean(dim=(2, 3)), images.mean(dim=(2, 3)), atol=1e-5)
    assert torch.allclose(found.std(dim=(2, 3)), 0.3 * images.std(dim=(2, 3)), atol=1e-5)


def as_pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_that_of_pillow(severity):
    images = smooth()
    for image, ours in zip(images, corrupt(images, keys(), name="jpeg", severity=severity), strict=True):
        file = io.BytesIO()
        as_pillow(image).save(file, "jpeg", quality=STRENGTHS["jpeg"][severity - 1], subsampling=0)
        theirs = np.asarray(Image.open(file)).astype(float)
        lost = np.abs(theirs - image.permute(1, 2, 0).numpy() * 255).mean()
        apart = np.abs(theirs - ours.permute(1, 2, 0).numpy() * 255).mean()
        # libjpeg computes in integers, which now and then rounds another way.
        assert apart < 0.15 * lost


def test_pixelate_is_that_of_pillow_at_whole_ratios():
    # Half of the side, which none of the strengths is: boxes are whole then, and Pillow's are these.
    image = smooth(1, height=32, width=32)[0]
    small = as_pillow(image).resize((16, 16), Image.Resampling.BOX)
    theirs = torch.from_numpy(np.asarray(small.resize((32, 32), Image.Resampling.BOX)).copy()).permute(2, 0, 1) / 255
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STRENGTHS, "pixelate", (0.5,))
        ours = corrupt(image[None], keys(1), name="pixelate", severity=1)[0]
    assert float((ours - theirs).abs().max()) < 1.01 / 255


def test_blur_grows_with_the_image():
    point = torch.zeros(1, 1, 65, 65)
    point[..., 32, 32] = 1.0
    found = corrupt(point, keys(1), name="gaussian_blur", severity=5)[0, 0]
    place = torch.arange(65) - 32.0
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-4)
    assert float((found.sum(dim=0) * place.square()).sum()) == pytest.approx((65 / 32) ** 2, rel=0.02)
