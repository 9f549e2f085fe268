"""Grids of pictures: captions that fit, names that are text, and what of many bands is shown."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_transfer.stages.explain.grids import (
    RIGHT,
    WRONG,
    Cell,
    bands_note,
    channel_cell,
    curves,
    grid,
    marked,
    pixels_of,
)


def opened(picture: bytes) -> Image.Image:
    return Image.open(io.BytesIO(picture))


def test_a_grid_grows_with_its_cells_and_captions() -> None:
    cell = Cell(pixels=np.zeros((16, 16)), caption="short")
    one, four = (
        opened(grid("title", [("row", [cell])])),
        opened(grid("title", [("a", [cell, cell]), ("b", [None, cell])])),
    )
    assert four.width > one.width + 150
    assert four.height > one.height + 150
    long = Cell(pixels=np.zeros((16, 16)), caption="words that are too many for one line of a caption")
    assert opened(grid("title", [("row", [long])])).height > one.height


def test_names_from_outside_are_text() -> None:
    cell = Cell(pixels=np.zeros((8, 8, 3)), caption=r"$\frac{1$ costs $5", colour=WRONG, overlay=np.ones((8, 8)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert grid(r"$\title$ of $x_{", [("$row_{$", [cell])])


def test_right_and_wrong_differ_in_sign_and_colour() -> None:
    (right, green), (wrong, orange) = marked(True, "cat"), marked(False, "cat")
    assert right != wrong
    assert (green, orange) == (RIGHT, WRONG)
    frames = [
        np.asarray(opened(grid("", [("", [Cell(pixels=np.zeros((4, 4)), colour=one)])])).convert("RGB"))
        for one in (RIGHT, WRONG)
    ]
    assert not np.array_equal(*frames)


def test_bands() -> None:
    assert [pixels_of(torch.rand(count, 8, 8)).shape for count in (1, 2, 3, 5)] == [
        (8, 8),
        (8, 8),
        (8, 8, 3),
        (8, 8, 3),
    ]
    assert [bool(bands_note(count)) for count in (1, 2, 3, 5)] == [False, True, False, True]


@pytest.mark.parametrize("value", [6.0, 0.0, -3.0])
def test_a_constant_map_is_grey_and_says_its_value(value: float) -> None:
    """From the least to the largest colour, a map of six everywhere looked as dead as one of zero."""
    cell = channel_cell(7, torch.full((4, 4), value) * (1.0 + 1e-7 * torch.rand(4, 4)))
    assert cell.caption == f"channel 7\nconstant {value:.2g}"
    assert not cell.stretched
    picture = np.asarray(opened(grid("", [("", [cell])])).convert("RGB"))
    assert (picture == 128).all(axis=2).sum() > 10_000
    varied = channel_cell(7, torch.tensor([[1.0, 2.0]]))
    assert (varied.stretched, varied.caption) == (True, "channel 7\n1 to 2")


def test_curves_of_unknown_intervals() -> None:
    values = np.array([[0.9, np.nan, np.nan], [0.5, 0.4, 0.6]])
    picture = opened(curves([("FGSM", [("a", values)]), ("PGD", [("a", values)])], [0.0, 0.1]))
    assert picture.width > 2 * 300
