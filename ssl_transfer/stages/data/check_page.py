"""Build the page of `ssl-transfer data check`: images of the findings, a contact sheet, the sizes."""

import base64
import functools
import io
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from ssl_transfer.data.checks.findings import Finding
from ssl_transfer.data.checks.scan import Survey, dtype_of
from ssl_transfer.data.dataset import PARTS
from ssl_transfer.reports.image_grid import sources_of

MAX_PICTURES = 1000
"""Largest number of images of one finding on the page; `findings.json` names all images."""
CONTACT_PICTURES = 600
CONTACT_EACH = 6


def parts_of(found: Survey) -> list[str]:
    """List the parts that hold images."""
    return [name for name in PARTS if len(found.dataset.splits[name])]


def counts_of(found: Survey) -> list[dict[str, Any]]:
    """Count images a class in each part that holds any, then those without a label, then all."""
    table = found.images.counts()[:, [PARTS.index(name) for name in parts_of(found)]]
    lines = [{"name": name, "counts": row.tolist()} for name, row in zip(found.images.classes, table, strict=False)]
    if table[-1].any():
        lines.append({"name": "without a label", "counts": table[-1].tolist()})
    return [*lines, {"name": "all", "counts": table.sum(axis=0).tolist()}]


def page_of(found: Survey, image_size: int) -> dict[str, Any]:
    """Return the values of the page beside those of `findings.json`."""
    contact = _contact(found)
    shown = [_first(one) for one in found.findings]
    wanted = [index for groups in shown for group in groups for index in group]
    wanted += [index for line in contact for cell in line["cells"] for index in cell]
    height, width = found.dataset.pixels.shape[2:]
    low, high = found.dataset.value_range
    return {
        "shown": shown,
        "num_images": [sum(map(len, one.groups)) for one in found.findings],
        "contact": contact,
        "num_classes": len(found.images.classes),
        "parts": parts_of(found),
        "pictures": sources_of(found.dataset, wanted),
        "pixelated": width < 48,
        "about": functools.partial(_about, found),
        "sizes": _size_histograms(np.asarray(found.stored.sizes), image_size),
        "stored": f"{found.dataset.num_channels} x {height} x {width} of {dtype_of(found.dataset)}",
        "value_range": f"{low:g} to {high:g}",
        "most": max((max(line["counts"]) for line in counts_of(found)[:-1]), default=1),
    }


def _first(one: Finding) -> list[tuple[int, ...]]:
    """Return a finding's first groups, up to `MAX_PICTURES` images."""
    total = np.cumsum([len(group) for group in one.groups])
    # The first group alone may be larger: all frames of a film, or blank images.
    return [
        group[:MAX_PICTURES] for group, end in zip(one.groups, total, strict=True) if end - len(group) < MAX_PICTURES
    ]


def _about(found: Survey, index: int) -> dict[str, str]:
    """Return the caption of an image."""
    images = found.images
    label, part = int(images.labels[index]), int(images.parts[index])
    width, height = found.stored.sizes[index]
    where = PARTS[part] if part >= 0 else "left out"
    return {
        "name": str(images.names[index]),
        "where": f"{where}, {images.classes[label]}" if label >= 0 else where,
        "size": f"{width} x {height}",
    }


def _contact(found: Survey) -> list[dict[str, Any]]:
    """Pick evenly spaced images of each class and part; of very many classes the first."""
    parts, images = parts_of(found), found.images
    labels = [*range(len(images.classes)), -1]
    each = min(CONTACT_EACH, max(1, CONTACT_PICTURES // (len(labels) * max(1, len(parts)))))
    lines = []
    for label in labels:
        cells = []
        for name in parts:
            members = np.flatnonzero((images.labels == label) & (images.parts == PARTS.index(name)))
            places = np.unique(np.linspace(0, len(members) - 1, min(each, len(members))).round().astype(int))
            cells.append(members[places].tolist() if len(members) else [])
        if any(cells):
            lines.append({"name": images.classes[label] if label >= 0 else "without a label", "cells": cells})
    return lines[: max(1, CONTACT_PICTURES // max(1, len(parts)))]


def _size_histograms(sizes: np.ndarray, image_size: int) -> str:
    """Draw shorter sides and aspect ratios as a base64 PNG; empty where all images have one size."""
    if len(np.unique(sizes, axis=0)) < 2:
        return ""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 2.8), layout="constrained")
    left.hist(sizes.min(axis=1), bins=40, color="#0072B2")
    left.axvline(image_size, color="#D55E00", linestyle="--", label=f"--image-size {image_size}")
    left.set(xlabel="shorter side, pixels", ylabel="images")
    left.legend(frameon=False, fontsize=9)
    right.hist(sizes[:, 0] / sizes[:, 1], bins=40, color="#0072B2")
    right.axvline(1.0, color="#7F7F7F", linestyle=":")
    right.set(xlabel="width / height", ylabel="images")
    for axes in (left, right):
        axes.set_yscale("symlog", linthresh=10)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()
