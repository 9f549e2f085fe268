import math

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from ssl_transfer.data import augment as augmentation
from ssl_transfer.data.augment import AugmentConfig, augment, crop_matrices, evaluation_view
from ssl_transfer.engine.errors import InputError

NOTHING = {
    "crop_scale": (1.0, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip": 0.0,
    "rotation": 0.0,
    "shear": 0.0,
    "jitter": 0.0,
    "grey": 0.0,
    "blur": 0.0,
}
EVERYTHING = AugmentConfig(rotation=20.0, shear=10.0, jitter=0.7, blur=0.7, blur_sigma=(5.0, 30.0))


def half(count: int) -> torch.Tensor:
    return torch.full((count,), 0.5)


def draw_of(value: float, centre: float, reach: float) -> torch.Tensor:
    """The draw in 0..1 that becomes `value` in centre - reach .. centre + reach."""
    return torch.tensor([((value - centre) / reach + 1.0) / 2.0])


def colour(pixels, *, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, grey=False):
    """The colour step with given factors on one image (C, H, W)."""
    config = AugmentConfig(jitter=1.0, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5, grey=0.5)
    draws = (
        torch.tensor([0.0]),
        draw_of(brightness, 1.0, 1.0),
        draw_of(contrast, 1.0, 1.0),
        draw_of(saturation, 1.0, 1.0),
        draw_of(hue, 0.0, 0.5),
        torch.tensor([0.0 if grey else 1.0]),
    )
    return augmentation._colour(pixels[None], draws, config)[0]


@pytest.fixture
def photograph() -> torch.Tensor:
    """(3, 12, 12) in 0.3..0.6, so that no factor below meets the clamp."""
    return 0.3 + 0.3 * torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_without_operations_a_view_is_the_image(make_batch, channels):
    batch = make_batch(4, channels=channels)
    view = augment(batch.images, batch.keys, view=0, size=16, config=AugmentConfig(**NOTHING))
    assert torch.allclose(view, batch.images / 255.0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [8, 16, 24])
def test_shape_range_and_type(make_batch, channels, size):
    batch = make_batch(32, channels=channels)
    view = augment(batch.images, batch.keys, view=0, size=size, config=EVERYTHING)
    assert view.shape == (32, channels, size, size)
    assert view.dtype == torch.float32
    # The weights of interpolation and blur sum to one but for rounding.
    assert float(view.min()) >= -1e-6
    assert float(view.max()) <= 1.0 + 1e-6
    assert float(view.std()) > 0.05


def test_a_view_is_a_function_of_its_image_and_key(make_batch):
    batch = make_batch(32)
    whole = augment(batch.images, batch.keys, view=1, size=16, config=EVERYTHING)
    assert torch.equal(whole, augment(batch.images, batch.keys, view=1, size=16, config=EVERYTHING))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    for chunk in order.split(5):
        part = augment(batch.images[chunk], batch.keys[chunk], view=1, size=16, config=EVERYTHING)
        # Not bit for bit: a sum may be taken in another order in another batch.
        assert torch.allclose(part, whole[chunk], atol=1e-6)


def test_low_precision_does_not_reach_the_pixels(make_batch):
    batch = make_batch(8)
    expected = augment(batch.images, batch.keys, view=0, size=16, config=EVERYTHING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        view = augment(batch.images, batch.keys, view=0, size=16, config=EVERYTHING)
    assert torch.equal(view, expected)


def test_views_and_keys_differ(make_batch):
    batch = make_batch(1)
    images, keys = batch.images.expand(16, -1, -1, -1), make_batch(16).keys
    views = [augment(images, keys, view=view, size=16, config=EVERYTHING) for view in (0, 1)]
    assert (views[0] - views[1]).abs().amax(dim=(1, 2, 3)).min() > 0.01
    assert len({tuple(view.flatten().tolist()) for view in views[0]}) == 16


def test_images_of_a_batch_do_not_change(make_batch):
    batch = make_batch(8)
    before = batch.images.clone()
    augment(batch.images, batch.keys, view=0, size=16, config=EVERYTHING)
    assert torch.equal(batch.images, before)


def test_certain_flips_mirror(make_batch):
    batch = make_batch(4)
    view = augment(batch.images, batch.keys, view=0, size=16, config=AugmentConfig(**{**NOTHING, "flip": 1.0}))
    assert torch.allclose(view, batch.images.flip(3) / 255.0, atol=1e-6)


def test_half_the_images_flip(make_batch):
    batch = make_batch(200)
    view = augment(batch.images, batch.keys, view=0, size=16, config=AugmentConfig(**{**NOTHING, "flip": 0.5}))
    kept = (view - batch.images / 255.0).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert 70 < int(kept.sum()) < 130


def test_a_quarter_turn_is_rot90(make_batch):
    batch = make_batch(2)
    config = AugmentConfig(**{**NOTHING, "rotation": 90.0})
    theta = crop_matrices((half(2), half(2), half(2), half(2), half(2), torch.ones(2), half(2)), config)
    grid = torch.nn.functional.affine_grid(theta, [2, 3, 16, 16], align_corners=False)
    turned = torch.nn.functional.grid_sample(batch.images / 255.0, grid, align_corners=False, padding_mode="border")
    assert torch.allclose(turned, (batch.images / 255.0).rot90(1, dims=(2, 3)), atol=1e-4)


@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.5, 0.5), (0.05, 0.3)])
def test_crops_show_the_area_asked_for_and_stay_inside(scale):
    draws = tuple(torch.rand(7, 2000, generator=torch.Generator().manual_seed(0)).unbind())
    theta = crop_matrices(draws, AugmentConfig(crop_scale=scale))
    half_width, half_height = theta[:, 0, 0].abs(), theta[:, 1, 1]
    area = half_width * half_height
    asked = scale[0] + (scale[1] - scale[0]) * draws[0]
    fits = (half_width < 1.0) & (half_height < 1.0)
    assert fits.float().mean() > 0.7
    assert torch.allclose(area[fits], asked[fits], atol=1e-6)
    assert float(area.max()) <= scale[1] + 1e-6
    ratio = half_width / half_height
    assert ratio[fits].min() >= 0.75 - 1e-5
    assert ratio[fits].max() <= 4 / 3 + 1e-5
    # The corners of the view, in coordinates of the image, lie within -1..1.
    corners = torch.tensor([[x, y, 1.0] for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
    places = torch.einsum("bij,kj->bki", theta, corners)
    assert float(places.abs().max()) <= 1.0 + 1e-5
    if scale[1] < 1.0:
        assert float(places.abs().max()) > 0.99  # and reach the border


def test_crops_above_one_show_all_of_the_image():
    draws = tuple(torch.rand(7, 500, generator=torch.Generator().manual_seed(0)).unbind())
    theta = crop_matrices(draws, AugmentConfig(crop_scale=(1.5, 2.0), crop_ratio=(1.0, 1.0), flip=0.0))
    corners = torch.tensor([[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0]])
    places = torch.einsum("bij,kj->bki", theta, corners)
    assert float(places[:, 0].max()) <= -1.0 + 1e-5
    assert float(places[:, 1].min()) >= 1.0 - 1e-5


@pytest.mark.parametrize("factor", [0.6, 0.9, 1.3])
def test_colours_against_torchvision(photograph, factor):
    brightness = reference.adjust_brightness(photograph, factor)
    assert torch.allclose(colour(photograph, brightness=factor), brightness, atol=1e-5)
    contrast = reference.adjust_contrast(photograph, factor)
    # Their luma weights are rounded otherwise.
    assert torch.allclose(colour(photograph, contrast=factor), contrast, atol=1e-3)
    saturation = reference.adjust_saturation(photograph, factor)
    assert torch.allclose(colour(photograph, saturation=factor), saturation, atol=1e-3)


def test_colours_together_against_torchvision_in_our_order(photograph):
    expected = reference.adjust_brightness(photograph, 1.2)
    expected = reference.adjust_contrast(expected, 0.7)
    expected = reference.adjust_saturation(expected, 1.5)
    found = colour(photograph, brightness=1.2, contrast=0.7, saturation=1.5)
    assert torch.allclose(found, expected, atol=1e-3)


def test_greyscale_against_torchvision(photograph):
    expected = reference.rgb_to_grayscale(photograph, num_output_channels=3)
    assert torch.allclose(colour(photograph, grey=True), expected, atol=1e-3)


def test_contrast_of_one_channel_against_torchvision(photograph):
    grey = photograph[:1]
    assert torch.allclose(colour(grey, contrast=0.5), reference.adjust_contrast(grey, 0.5), atol=1e-5)
    assert torch.allclose(colour(grey, brightness=1.4), reference.adjust_brightness(grey, 1.4), atol=1e-5)


def test_hue(photograph):
    assert torch.allclose(colour(photograph, hue=0.0), photograph, atol=1e-5)
    assert torch.allclose(colour(photograph, hue=0.5), colour(photograph, hue=-0.5), atol=1e-4)
    turned = colour(photograph, hue=0.2)
    assert (turned - photograph).abs().mean() > 0.01
    luma = torch.tensor([0.299, 0.587, 0.114])
    unclamped = (turned > 0.0).all(dim=0) & (turned < 1.0).all(dim=0)
    assert unclamped.float().mean() > 0.9
    moved = torch.einsum("c,chw->hw", luma, turned - photograph)
    assert float(moved[unclamped].abs().max()) < 1e-3
    grey = photograph[:1].expand(3, -1, -1)
    assert torch.allclose(colour(grey, hue=0.3), grey, atol=1e-4)


def test_colours_are_clamped():
    bright = torch.full((3, 4, 4), 0.9)
    assert torch.allclose(colour(bright, brightness=1.9), torch.ones(3, 4, 4))


@pytest.mark.parametrize("largest", [0.7, 1.0, 2.0])
def test_blur_against_torchvision(photograph, largest):
    sigma = torch.tensor([0.4, 0.7])
    images = torch.stack([photograph, photograph.flip(1)])
    found = augmentation._blur(images, torch.tensor([True, True]), sigma, largest=largest)
    radius = math.ceil(2 * largest)
    for image, blurred, deviation in zip(images, found, sigma.tolist(), strict=True):
        expected = reference.gaussian_blur(image, kernel_size=[2 * radius + 1] * 2, sigma=[deviation] * 2)
        assert torch.allclose(blurred, expected, atol=1e-5)


def test_blur_touches_only_the_chosen(photograph):
    images = torch.stack([photograph] * 3)
    found = augmentation._blur(images, torch.tensor([False, True, False]), torch.ones(3), largest=1.0)
    assert torch.equal(found[0], photograph)
    assert torch.equal(found[2], photograph)
    assert found[1].std() < 0.8 * photograph.std()


def test_evaluation_view_cuts_the_margin():
    images = torch.arange(2 * 3 * 18 * 18).remainder(256).to(torch.uint8).view(2, 3, 18, 18)
    view = evaluation_view(images, size=16)
    assert torch.equal(view, images[:, :, 1:17, 1:17] / 255.0)
    assert torch.equal(evaluation_view(images, size=18), images / 255.0)


def test_evaluation_view_enlarges():
    images = torch.tensor([[0, 255], [0, 255]], dtype=torch.uint8).expand(1, 1, 2, 2)
    row = evaluation_view(images, size=4)[0, 0, 0]
    assert torch.allclose(row, torch.tensor([0.0, 0.25, 0.75, 1.0]))
    assert evaluation_view(images, size=8).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, "flip 1.5"),
        ({"blur": -0.1}, "blur -0.1"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale 0.5 0.2"),
        ({"blur_sigma": (0.0, 1.0)}, r"blur_sigma 0\.0"),
        ({"brightness": 1.1}, "brightness 1.1"),
        ({"hue": 0.6}, "hue 0.6"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        AugmentConfig(**settings)
