"""Digits over photographs, as MNIST-M was made: the formula, the division, and that no background is in two parts."""

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_transfer.data import sources
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.sources import blend
from ssl_transfer.engine.errors import InputError

SIZE = 16


@pytest.fixture
def photographs(tmp_path):
    """A folder of twelve photographs, each of one colour: 20, 40, ... in all channels but the last."""
    folder = tmp_path / "photographs"
    for number in range(12):
        file = folder / ("some" if number % 2 else "others") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        grey = 20 * number
        Image.new("RGB", (30 + number, 24), (grey, grey, 255 - grey)).save(file)
    return folder


def load(source, *, size=SIZE, **settings):
    return sources.load(source, image_size=size, config=LoadingConfig(**settings))


def enlarged_digits(size):
    plain = load("digits", size=size).pixels.float()
    return torch.nn.functional.interpolate(plain, size=(size, size), mode="bilinear").round()


def test_each_pixel_is_the_distance_to_a_patch(photographs):
    """Over a flat photograph: |x - p| in each channel, exactly."""
    data = load(f"blend:digits,{photographs}")
    digits = enlarged_digits(SIZE).repeat(1, 3, 1, 1)
    assert data.pixels.shape == (1797, 3, SIZE, SIZE)
    assert data.pixels.dtype == torch.uint8
    greys = 20.0 * torch.arange(12)
    patches = torch.stack([greys, greys, 255 - greys], dim=1)
    possible = (digits[:, None] - patches[None, :, :, None, None]).abs()
    fits = (possible == data.pixels.float()[:, None]).flatten(2).all(dim=2)
    assert (fits.sum(dim=1) == 1).all()
    # Which photograph each image is over: none serves two parts, and all are used.
    used = {part: set(fits[data.splits[part]].int().argmax(dim=1).tolist()) for part in ("train", "validation", "test")}
    assert sum(len(numbers) for numbers in used.values()) == len(set.union(*used.values())) == 12
    assert (len(used["train"]), len(used["validation"]), len(used["test"])) == (7, 2, 3)


def test_patches_of_the_five_photographs_are_crops_of_a_parts_own_columns():
    side = 12
    found = blend.embedded(side)
    columns = {
        part: {(area.photograph, column) for area in areas for column in range(area.left, area.right)}
        for part, areas in found.areas.items()
    }
    assert not columns["train"] & columns["test"]
    assert not columns["train"] & columns["validation"]
    assert not columns["test"] & columns["validation"]
    assert {photograph for photograph, _ in columns["test"]} == set(range(5))
    images = [found.open(number) for number in range(5)]
    assert all(image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 for image in images)
    # A black image keeps its patch as it is: it is found in the part's columns, and there alone.
    base = load("digits", size=side)
    black = sources.Dataset(**{**vars(base), "pixels": torch.zeros_like(base.pixels), "moments": None})
    blended = blend.blend(black, found, side=side, seed=0, source="black")
    for part in ("train", "validation", "test"):
        for row in base.splits[part][:4].tolist():
            patch = blended.pixels[row].numpy()
            places = [
                (number, left)
                for number, image in enumerate(images)
                for left in range(image.shape[1] - side + 1)
                if _is_there(image[:, left : left + side], patch)
            ]
            assert any({(number, left), (number, left + side - 1)} <= columns[part] for number, left in places)


def _is_there(strip, patch):
    """Check for a patch (3, S, S) in a strip (H, S, 3)."""
    rows = np.lib.stride_tricks.sliding_window_view(strip, patch.shape[1], axis=0)
    candidates = np.flatnonzero((strip[: len(rows), 0] == patch[:, 0, 0]).all(axis=1))
    return any((strip[row : row + patch.shape[1]].transpose(2, 0, 1) == patch).all() for row in candidates)


def test_blended_digits_are_divided_as_the_digits_are():
    plain, blended = load("digits"), load("blended-digits")
    assert all(torch.equal(blended.splits[part], index) for part, index in plain.splits.items())
    assert torch.equal(blended.labels, plain.labels)
    assert blended.classes == plain.classes
    # The digit underneath is known again, over whatever it lies and however large it is stored.
    assert np.array_equal(blended.contents, plain.contents)
    assert blended.pixels.shape[2:] == (SIZE, SIZE)
    assert len(blended.pixels.flatten(1).unique(dim=0)) == 1797
    assert "scikit-image" in blended.describe()


def test_patches_are_a_function_of_the_split_seed():
    data = load("blended-digits")
    again, other = load("blended-digits"), load("blended-digits", split_seed=1)
    assert torch.equal(data.pixels, again.pixels)
    assert data.fingerprint == again.fingerprint != other.fingerprint
    assert not torch.equal(data.pixels, other.pixels)
    mean, deviation = data.statistics()
    values = data.pixels[data.pool].double() / 255
    assert mean == pytest.approx(values.mean(dim=(0, 2, 3)).tolist())
    assert deviation == pytest.approx(values.std(dim=(0, 2, 3), correction=0).tolist())


def test_colour_and_other_sizes_can_be_blended(photographs, tmp_path):
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (60, 20, 20, 3), dtype=np.uint8)
    np.savez(tmp_path / "colours.npz", images=colours, labels=np.arange(60) % 2)
    data = load(f"blend:npz:{tmp_path / 'colours.npz'},{photographs}", cache=tmp_path / "cache")
    # Stored 8/7 as large as models see them, which is smaller than they are.
    assert data.pixels.shape == (60, 3, 18, 18)
    assert {part: len(index) for part, index in data.splits.items()}["test"] > 0


def test_small_photographs_are_left_out_and_told(photographs):
    Image.new("RGB", (SIZE - 1, 300)).save(photographs / "narrow.png")
    data = load(f"blend:digits,{photographs}")
    assert "12 photographs" in data.describe()
    assert "1 smaller than 16 pixels are left out" in data.describe()


def test_mistakes_are_told(photographs, tmp_path):
    with pytest.raises(InputError, match=r"two with a comma between them, as in blend:DATA,PHOTOFOLDER"):
        load("blend:digits")
    with pytest.raises(InputError, match="no folder of photographs nowhere"):
        load("blend:digits,nowhere")
    with pytest.raises(InputError, match="Did you mean blended-digits"):
        load("blended-digit")
    with pytest.raises(InputError, match="0 photographs of 25 pixels a side or more; at least 3"):
        load(f"blend:digits,{photographs}", size=25)
    with pytest.raises(InputError, match="smaller --image-size, or a folder"):
        load("blended-digits", size=96)
    deep = np.zeros((9, 8, 8), np.uint16)
    deep[:, ::2] = np.arange(9)[:, None, None] + 1
    np.savez(tmp_path / "deep.npz", images=deep, labels=np.arange(9) % 2)
    with pytest.raises(InputError, match="8-bit grey or colour images are blended"):
        load(f"blend:npz:{tmp_path / 'deep.npz'},{photographs}", cache=tmp_path / "cache", test_fraction=0.3)
    (photographs / "broken.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"broken\.png cannot be read"):
        load(f"blend:digits,{photographs}")
    with pytest.raises(InputError, match="is made of other data"):
        sources.read("blended-digits", image_size=SIZE, config=LoadingConfig())
