"""Draw grids of captioned images for `explain`, as bytes of a PNG."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import pyplot as plt
from torch import Tensor

from ssl_transfer.engine.printable import printable
from ssl_transfer.reports.evaluation_figures import shown_name
from ssl_transfer.reports.figures import COLOURS, MARKERS, png

PLAIN, RIGHT, WRONG = "#333333", "#00724F", "#B34700"
_SIDE = 1.45
"""Inches a side of a cell."""
_TITLE = 0.32
"""Inches of the title's height."""
_CHARACTERS = 26
"""Characters of a caption that fit above a cell."""
_MOST_STEPS = 32.5
"""Largest epsilon, in steps of 8 bits, that is shown as steps; a larger one is shown as a share."""
_ROUNDING = 1e-6
"""Share of the largest value below which differences within a map are rounding errors."""
_FEW_PIXELS = 64
"""Pixels a side up to which an image is enlarged without smoothing."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Image in a grid."""

    pixels: np.ndarray
    """(H, W), or (H, W, 3) in 0..1."""
    caption: str = ""
    """Text above the image, in a line or two."""
    colour: str = PLAIN
    """Colour of the caption, and of a frame where it is `RIGHT` or `WRONG`."""
    overlay: np.ndarray | None = None
    """(H, W) in 0..1, drawn over the image as a heat map."""
    stretched: bool = False
    """True: scale one channel from its own least to its own largest value, in a colour map."""


def marked(is_right: bool, words: str) -> tuple[str, str]:
    """Return a caption with a mark for right or wrong, and its colour."""
    return (f"✓ {words}", RIGHT) if is_right else (f"✗ {words}", WRONG)


def short_name(name: str) -> str:
    """Return an image's name without its folders, as a label."""
    return shown_name(name.rpartition("/")[2])


def pixels_of(view: Tensor) -> np.ndarray:
    """Convert (C, S, S) in 0..1 to an image: of two channels the first, of more the first three."""
    values = view.detach().cpu().clamp(0.0, 1.0).numpy()
    return values[:3].transpose(1, 2, 0) if len(values) >= 3 else values[0]


def channel_cell(number: int, values: Tensor) -> Cell:
    """Draw one channel's map, (H, W); grey where it is constant."""
    low, high = float(values.min()), float(values.max())
    if high - low <= _ROUNDING * max(abs(low), abs(high)):
        return Cell(pixels=np.full(values.shape, 0.5), caption=f"channel {number}\nconstant {high:.2g}")
    return Cell(pixels=values.numpy(), caption=f"channel {number}\n{low:.2g} to {high:.2g}", stretched=True)


def bands_note(num_channels: int) -> str:
    """Return a note on images that are neither grey nor RGB; empty for these."""
    if num_channels in (1, 3):
        return ""
    shown = "the first" if num_channels == 2 else "the first three, as red, green and blue"
    return f"Of {num_channels} bands pictures show {shown}."


def grid(title: str, rows: Sequence[tuple[str, Sequence[Cell | None]]]) -> bytes:
    """Draw cells in named rows.

    Args:
        title: heading of the grid.
        rows: for each row its name, drawn to the left, and its cells; None is an empty place.
    """
    columns = max(len(cells) for _, cells in rows)
    names = [[shown_name(part) for part in name.split("\n")] for name, _ in rows]
    left = 0.15 + 0.078 * max(len(part) for name in names for part in name)
    lines = max([0, *(len(_broken(cell.caption)) for _, cells in rows for cell in cells if cell)])
    top, gap = 0.14 * lines + 0.1, 0.1
    height, width = len(rows) * (_SIDE + top) + _TITLE + 0.05, left + columns * (_SIDE + gap) + 0.05
    width = max(width, 0.092 * len(title) + 0.3)
    figure = plt.figure(figsize=(width, height))
    figure.text(0.12 / width, 1.0 - 0.14 / height, _text(title), fontsize=11, va="top", color="#111111")
    for number, (_, cells) in enumerate(rows):
        bottom = height - _TITLE - (number + 1) * (_SIDE + top)
        figure.text(
            0.1 / width, (bottom + _SIDE / 2) / height, "\n".join(names[number]), fontsize=9, va="center", color=PLAIN
        )
        for place, cell in enumerate(cells):
            if cell is not None:
                x = left + place * (_SIDE + gap)
                _draw(figure, cell, (x / width, bottom / height, _SIDE / width, _SIDE / height))
    return png(figure)


def _draw(figure: plt.Figure, cell: Cell, place: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(place)
    smooth = "nearest" if max(cell.pixels.shape[:2]) <= _FEW_PIXELS else "antialiased"
    low, high = (None, None) if cell.stretched else (0.0, 1.0)
    colours = "viridis" if cell.stretched else "gray"
    axes.imshow(cell.pixels, cmap=colours, interpolation=smooth, vmin=low, vmax=high)
    if cell.overlay is not None:
        # Low weights stay transparent, so that the image is still recognised.
        axes.imshow(cell.overlay, cmap="inferno", vmin=0.0, vmax=1.0, alpha=0.15 + 0.6 * cell.overlay)
    axes.set_xticks([])
    axes.set_yticks([])
    framed = cell.colour in (RIGHT, WRONG)
    for spine in axes.spines.values():
        spine.set(visible=framed, color=cell.colour, linewidth=2.5)
    axes.set_title(_text("\n".join(_broken(cell.caption))), fontsize=7.5, color=cell.colour, pad=2.5)


def _broken(caption: str) -> list[str]:
    """Wrap a caption to the width of its image."""
    return [line for part in caption.split("\n") for line in textwrap.wrap(part, _CHARACTERS)]


def _text(words: str) -> str:
    """Escape control characters, and dollars, which would start a formula; `shown_name` did so already."""
    return printable(words).replace(r"\$", "$").replace("$", r"\$")


def epsilon_text(epsilon: float) -> str:
    """Format epsilon as steps of 8 bits where it is a few of them."""
    steps = epsilon * 255.0
    return f"{steps:.0f}/255" if steps < _MOST_STEPS and abs(steps - round(steps)) < 1e-6 else f"{epsilon:g}"


def curves(panels: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]], epsilons: Sequence[float]) -> bytes:
    """Draw accuracy over epsilon, one panel an attack, with 95 % intervals.

    Args:
        panels: for each its title, and for each arm its name and (E, 3): mean, low and high at every epsilon.
        epsilons: E of them, the first 0.
    """
    figure, drawn = plt.subplots(
        1, len(panels), figsize=(2.9 * len(panels) + 1.4, 3.3), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (title, arms) in zip(drawn[0], panels, strict=True):
        for number, (_, values) in enumerate(arms):
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            below, above = np.nan_to_num(np.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]))
            # Arms stand side by side, so that their intervals can be read.
            shift = (number - (len(arms) - 1) / 2) * 0.012 * max(epsilons)
            places = np.asarray(epsilons) + shift
            axes.errorbar(places, values[:, 0], yerr=[below, above], color=colour, marker=marker, capsize=3)
        axes.set_title(title, fontsize=11)
        axes.set_xticks(epsilons, ["0", *map(epsilon_text, epsilons[1:])], fontsize=9)
        axes.set_xlabel("epsilon")
        axes.set_ylim(0.0, 1.02)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    drawn[0][0].set_ylabel("accuracy")
    handles = drawn[0][0].containers
    names = [shown_name(name) for name, _ in panels[0][1]]
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False, fontsize=9)
    return png(figure)
