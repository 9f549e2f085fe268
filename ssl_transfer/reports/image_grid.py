"""Embed images of a data set in a page, without further files."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.engine.printable import one_line

LARGEST = 128
"""Pixels a side; larger images are shrunk."""
_LOSSLESS = 40
"""Largest number of pixels a side for PNG; up to it JPEG saves no space and its artefacts are visible."""
CPU = torch.device("cpu")


def picture(image: Tensor) -> Image.Image:
    """Convert (C, H, W) float32 in 0..1 to an image: of two channels the first, of more the first three."""
    channels = image[:3] if len(image) >= 3 else image[:1]
    values = (channels.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy().transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(values[:, :, 0] if values.shape[2] == 1 else values))


def encoded(image: Tensor) -> bytes:
    """Encode (C, H, W) float32 in 0..1 as a PNG, enlarged where it is very small."""
    shown = picture(image)
    if shown.width < _LOSSLESS:
        shown = shown.resize((64, 64), Image.Resampling.NEAREST)
    return png(shown)


def png(image: Image.Image) -> bytes:
    """Encode an image as a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def sources_of(dataset: Dataset, indices: Sequence[int]) -> dict[int, str]:
    """Encode these images as texts for the `src` of an <img>."""
    wanted = torch.tensor(sorted(set(indices)), dtype=torch.int64)
    chunks = wanted.split(256)
    found: dict[int, str] = {}
    for chunk, images in zip(chunks, dataset.batches(chunks, CPU), strict=True):
        for index, image in zip(chunk.tolist(), images, strict=True):
            found[index] = _source(picture(image))
    return found


def _source(image: Image.Image) -> str:
    buffer = io.BytesIO()
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    kind = "png" if max(image.size) <= _LOSSLESS else "jpeg"
    image.save(buffer, format=kind, **({"quality": 88} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def sheet(title: str, rows: Sequence[str], columns: Sequence[tuple[str, Tensor]], *, side: int) -> Image.Image:
    """Draw images in rows and columns with titles.

    Args:
        title: heading of the whole.
        rows: name of each of B rows.
        columns: a title and (B, C, H, W) images in 0..1, which are enlarged or shrunk to `side`.
        side: pixels a side of one image.
    """
    title, rows = one_line(title), [one_line(name) for name in rows]
    font, heading = ImageFont.load_default(13), ImageFont.load_default(17)
    gap, top = 6, 56
    left = gap + max([0, *(round(font.getlength(name)) + gap for name in rows)])
    width = max(left + len(columns) * (side + gap), round(heading.getlength(title)) + 2 * gap)
    paper = Image.new("RGB", (width, top + len(rows) * (side + gap)), "white")
    pen = ImageDraw.Draw(paper)
    pen.text((gap, gap), title, fill="black", font=heading)
    for number, name in enumerate(rows):
        pen.text((gap, top + number * (side + gap) + side // 2), name, fill="black", font=font, anchor="lm")
    for place, (name, images) in enumerate(columns):
        x = left + place * (side + gap)
        pen.text((x, top - 22), name, fill="black", font=font)
        # Few pixels are shown as pixels, as models get them.
        way = Image.Resampling.NEAREST if images.shape[3] < side // 2 else Image.Resampling.BICUBIC
        for number, image in enumerate(images):
            paper.paste(picture(image).resize((side, side), way), (x, top + number * (side + gap)))
    return paper
