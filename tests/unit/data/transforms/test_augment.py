import pytest
import torch

from ssl_transfer.data.transforms import augment as augmentation
from ssl_transfer.data.transforms.augment import AugmentConfig, augment, crop_matrices, evaluation_view, ignored
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.randomness import sample_keys, uniform

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
EVERYTHING = AugmentConfig(
    rotation=20.0, shear=10.0, vertical_flip=0.5, jitter=0.7, blur=0.7, blur_sigma=(5.0, 30.0), solarise=0.3
)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_without_operations_a_view_is_the_image(make_batch, channels):
    batch = make_batch(4, channels=channels)
    view = augment(batch.images, batch.keys, view=0, size=16, config=AugmentConfig(**NOTHING))
    assert torch.allclose(view, batch.images, atol=1e-6)


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


@pytest.mark.parametrize("config", [EVERYTHING, AugmentConfig()], ids=["turned", "boxes"])
def test_a_view_is_a_function_of_its_image_and_key(make_batch, config):
    batch = make_batch(32)
    whole = augment(batch.images, batch.keys, view=1, size=16, config=config)
    assert torch.equal(whole, augment(batch.images, batch.keys, view=1, size=16, config=config))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    for chunk in order.split(5):
        part = augment(batch.images[chunk], batch.keys[chunk], view=1, size=16, config=config)
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
    assert torch.allclose(view, batch.images.flip(3), atol=1e-6)


def test_half_the_images_flip(make_batch):
    batch = make_batch(200)
    view = augment(batch.images, batch.keys, view=0, size=16, config=AugmentConfig(**{**NOTHING, "flip": 0.5}))
    kept = (view - batch.images).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert 70 < int(kept.sum()) < 130


def test_certain_vertical_flips_mirror(make_batch):
    batch = make_batch(4)
    config = AugmentConfig(**{**NOTHING, "vertical_flip": 1.0})
    view = augment(batch.images, batch.keys, view=0, size=16, config=config)
    assert torch.allclose(view, batch.images.flip(2), atol=1e-6)


def test_flips_mean_the_same_with_and_without_a_turn(make_batch):
    batch = make_batch(8)
    settings = {**NOTHING, "flip": 0.5, "vertical_flip": 0.5}
    views = [
        augment(batch.images, batch.keys, view=0, size=16, config=AugmentConfig(**{**settings, "rotation": turn}))
        for turn in (0.0, 1e-9)
    ]
    assert torch.allclose(*views, atol=1e-5)
    assert len({tuple(view.flatten().tolist()) for view in views[0]}) == 8


@pytest.mark.parametrize("channels", [1, 2, 3, 13])
def test_solarise(make_batch, channels):
    batch = make_batch(200, channels=channels)
    config = AugmentConfig(**{**NOTHING, "solarise": 0.5, "solarise_threshold": 0.7})
    view = augment(batch.images, batch.keys, view=0, size=16, config=config)
    changed = (view - batch.images).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert 70 < int(changed.sum()) < 130
    assert torch.allclose(view[changed], torch.where(batch.images >= 0.7, 1 - batch.images, batch.images)[changed])


@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.5, 0.5), (0.05, 0.3)])
def test_crops_show_the_area_asked_for_and_stay_inside(scale):
    draws = tuple(torch.rand(8, 2000, generator=torch.Generator().manual_seed(0)).unbind())
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
    draws = tuple(torch.rand(8, 500, generator=torch.Generator().manual_seed(0)).unbind())
    theta = crop_matrices(draws, AugmentConfig(crop_scale=(1.5, 2.0), crop_ratio=(1.0, 1.0), flip=0.0))
    corners = torch.tensor([[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0]])
    places = torch.einsum("bij,kj->bki", theta, corners)
    assert float(places[:, 0].max()) <= -1.0 + 1e-5
    assert float(places[:, 1].min()) >= 1.0 - 1e-5


@pytest.mark.parametrize("settings", [{}, {"rotation": 180.0}], ids=["boxes", "turned"])
def test_shrinking_does_not_alias(settings):
    # Single black and white pixels: without antialiasing a smaller image is black, white or their beat, not grey.
    board = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float().expand(16, 1, 64, 64)
    keys = sample_keys(0, 0, torch.arange(16))
    config = AugmentConfig(**{**NOTHING, "padding": "reflection", **settings})
    view = augment(board, keys, view=0, size=16, config=config)
    assert float((view - 0.5).abs().max()) < 0.1


@pytest.mark.parametrize("config", [EVERYTHING, AugmentConfig()], ids=["turned", "boxes"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_nothing_leaves_the_device_nor_waits_for_it(config, channels):
    # The meta device has shapes and no values: it refuses tensors of other devices, and each reading of a number.
    images, keys = torch.empty(4, channels, 32, 32, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    steps = augmentation._steps(uniform(keys, 0, 18).unbind(dim=1), images.shape, 16, config)
    for operation, parameters in steps:
        assert {parameter.device.type for parameter in parameters} == {"meta"}
        images = operation(images, *parameters)
    assert (images.shape, images.device.type) == ((4, channels, 16, 16), "meta")


def test_stored_pixels_need_not_be_square(make_batch):
    batch = make_batch(4)
    view = augment(batch.images[:, :, :12], batch.keys, view=0, size=20, config=AugmentConfig())
    assert view.shape == (4, 3, 20, 20)
    assert bool(view.isfinite().all())


def test_chunks_change_nothing(make_batch, monkeypatch):
    batch = make_batch(10)
    whole = augment(batch.images, batch.keys, view=1, size=16, config=EVERYTHING)
    monkeypatch.setattr(augmentation, "CHUNK_VALUES", 3 * 3 * 16 * 16)
    assert torch.allclose(augment(batch.images, batch.keys, view=1, size=16, config=EVERYTHING), whole, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_colours_of_other_than_three_channels_are_named_and_left_alone(make_batch, channels):
    batch = make_batch(16, channels=channels)
    coloured = AugmentConfig(**{**NOTHING, "jitter": 1.0, "grey": 1.0, "brightness": 0.0, "contrast": 0.0})
    assert ignored(coloured, channels) == ["saturation", "hue", "grey"]
    assert ignored(coloured, 3) == []
    assert ignored(AugmentConfig(**NOTHING), channels) == []
    view = augment(batch.images, batch.keys, view=0, size=16, config=coloured)
    assert torch.allclose(view, batch.images, atol=1e-6)
    jittered = AugmentConfig(**{**NOTHING, "jitter": 1.0})
    view = augment(batch.images, batch.keys, view=0, size=16, config=jittered)
    assert float((view - batch.images).abs().amax(dim=(1, 2, 3)).min()) > 0.01


def test_evaluation_view_cuts_the_margin():
    images = torch.rand(2, 3, 18, 18, generator=torch.Generator().manual_seed(0))
    assert torch.equal(evaluation_view(images, size=16), images[:, :, 1:17, 1:17])
    assert torch.equal(evaluation_view(images, size=18), images)


def test_evaluation_view_enlarges():
    images = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).expand(1, 1, 2, 2)
    row = evaluation_view(images, size=4)[0, 0, 0]
    assert torch.allclose(row, torch.tensor([0.0, 0.25, 0.75, 1.0]))
    assert evaluation_view(images, size=8).shape == (1, 1, 8, 8)


def test_evaluation_view_shows_most_of_a_far_larger_image():
    ramp = torch.linspace(0.0, 1.0, 128).expand(1, 1, 128, 128)
    row = evaluation_view(ramp, size=16)[0, 0, 0]
    expected = ramp[0, 0, 0, 8:120].view(16, 7).mean(dim=1)
    assert torch.allclose(row[1:-1], expected[1:-1], atol=1e-4)
    assert torch.allclose(row, expected, atol=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, "flip 1.5"),
        ({"blur": -0.1}, "blur -0.1"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale 0.5 0.2"),
        ({"blur_sigma": (0.0, 1.0)}, r"blur_sigma 0\.0"),
        ({"brightness": 1.1}, "brightness 1.1"),
        ({"hue": 0.6}, "hue 0.6"),
        ({"vertical_flip": 2}, "vertical_flip 2"),
        ({"solarise": -1}, "solarise -1"),
        ({"solarise_threshold": 1.5}, "solarise_threshold 1.5"),
        ({"rotation": 200.0}, r"rotation 200\.0"),
        ({"shear": 90.0}, r"shear 90\.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        AugmentConfig(**settings)


@pytest.mark.parametrize("size", [5, 12])
def test_bicubic_views_stay_within_their_image(size):
    images = (torch.arange(64.0).view(1, 1, 8, 8) % 2).repeat(1, 3, 1, 1)
    view = evaluation_view(images, size=size, interpolation="bicubic")
    assert view.shape == (1, 3, size, size)
    assert view.min() >= 0.0
    assert view.max() <= 1.0
    assert not torch.equal(view, evaluation_view(images, size=size))
