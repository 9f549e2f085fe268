from dataclasses import replace

import pytest
import torch

from ssl_transfer.data.transforms.augment import (
    RECONSTRUCTION_DEFAULT,
    SUPERVISED_DEFAULT,
    AugmentConfig,
    augment,
    ignored,
)
from ssl_transfer.data.transforms.presets import KINDS, preset
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.stages.demos.compare import SETTINGS

VIEWS = ("contrastive", "reconstruction", "supervised")


def numbers(value):
    """The texts of a settings file as floats where they are numbers."""
    if isinstance(value, list):
        return [numbers(item) for item in value]
    try:
        return float(value)
    except ValueError:
        return value


def test_natural_images_get_the_defaults():
    expected = (AugmentConfig(), RECONSTRUCTION_DEFAULT, SUPERVISED_DEFAULT)
    assert tuple(preset(views, "natural") for views in VIEWS) == expected


@pytest.mark.parametrize("views", VIEWS)
def test_kinds(views, make_batch):
    assert list(KINDS) == ["natural", "greyscale", "texture", "digits"]
    grey, texture, digits = (preset(views, kind) for kind in ("greyscale", "texture", "digits"))
    assert ignored(grey, 1) == ignored(digits, 1) == []
    assert (texture.rotation, texture.flip, texture.vertical_flip) == (180.0, 0.5, 0.5)
    assert texture.crop_scale[0] >= 0.4
    assert (digits.flip, digits.vertical_flip, digits.padding) == (0.0, 0.0, "zeros")
    assert 0.0 < digits.rotation <= 20.0
    batch = make_batch(4)
    for config in (grey, texture, digits):
        seen = augment(batch.images, batch.keys, view=0, size=16, config=config)
        assert bool(torch.isfinite(seen).all())
        assert (config.jitter > 0.0) == (views == "contrastive")


def test_a_method_keeps_what_its_images_do_not_ask_about():
    own = AugmentConfig(blur=0.9, solarise=0.2, crop_scale=(0.05, 0.3))
    assert preset("contrastive", "natural", own) == own
    assert preset("contrastive", "greyscale", own).solarise == 0.2
    texture = preset("contrastive", "texture", own)
    assert (texture.blur, texture.crop_scale) == (0.9, (0.3, 0.3))


@pytest.mark.parametrize(("size", "probability"), [(32, 0.0), (55, 0.0), (56, 0.5), (64, 0.5), (224, 0.5)])
def test_the_default_blur_goes_by_the_size(make_batch, size, probability):
    default = AugmentConfig()
    assert default.blur_at(size) == probability
    batch = make_batch(6, size=size)
    told = [augment(batch.images, batch.keys, view=0, size=size, config=replace(default, blur=p)) for p in (0.0, 0.5)]
    seen = augment(batch.images, batch.keys, view=0, size=size, config=default)
    assert torch.equal(seen, told[probability == 0.5])
    assert not torch.equal(*told)


def test_an_explicit_blur_is_left_as_it_is():
    assert [AugmentConfig(blur=probability).blur_at(24) for probability in (0.0, 0.3)] == [0.0, 0.3]
    assert AugmentConfig(blur=0.3).blur_at(224) == 0.3
    # A blur that small views can see, asked for without its probability.
    assert AugmentConfig(blur_sigma=(4.0, 10.0)).blur_at(24) == 0.5


def test_digits_get_what_the_demo_uses():
    settings = configuration.read_yaml(SETTINGS)
    places = {
        "contrastive": settings["simclr"]["method"],
        "reconstruction": settings["mae"]["method"],
        "supervised": settings["transfer"],
    }
    for views, place in places.items():
        found = configuration.to_dict(preset(views, "digits"))
        assert {name: found[name] for name in place["augment"]} == {
            name: numbers(value) for name, value in place["augment"].items()
        }


def test_a_kind_that_does_not_exist():
    with pytest.raises(InputError, match=r"digit: there are .* Did you mean digits"):
        preset("contrastive", "digit")
