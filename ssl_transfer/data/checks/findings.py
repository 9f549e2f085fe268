"""Derive findings from a data set's arrays: each has a severity, a sentence and a remedy.

N images, C channels, K classes. Groups are as in `split/groups.py`: a code per image, -1 for an image without a group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssl_transfer.data.dataset import PARTS, Moments
from ssl_transfer.data.loading_config import Range
from ssl_transfer.engine.console.formatting import counted

Severity = Literal["problem", "warning", "fine"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "fine")
MIN_TRAIN = 10
"""Number of training images below which a class is called small."""
MAX_IMBALANCE = 10.0
"""Ratio of the largest class to the smallest above which classes are called unbalanced."""
MAX_RATIO = 2.0
"""Ratio of the longer side to the shorter. Above it the middle square shows less than half of an image."""
FEW = 0.01
"""Largest share of the images for which a finding is fine and not a warning: a few odd sizes or near duplicates."""
MAX_SHIFT = 0.5
"""Distance of a part's mean from the pool's, in deviations of the images' means, above which a part is called
unlike."""
_BLANK = 1e-3
"""Deviation, in shares of the value range, below which an image is of one colour."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of one check."""

    topic: str
    severity: Severity
    sentence: str
    remedy: str = ""
    groups: tuple[tuple[int, ...], ...] = ()
    """Indices of the images to look at; images that belong together share one tuple."""
    details: tuple[str, ...] = ()
    """Lines about images that have no stored pixels to show."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Names, labels and parts of the images."""

    names: np.ndarray
    """(N,) texts."""
    labels: np.ndarray
    """(N,) int64; -1 without a label."""
    parts: np.ndarray
    """(N,) positions in `PARTS`; -1 is in none."""
    classes: tuple[str, ...]

    def counts(self) -> np.ndarray:
        """Count the images of each class in each part: (K + 1, 4) int64; the last row is without a label."""
        table = np.zeros((len(self.classes) + 1, len(PARTS)), np.int64)
        inside = self.parts >= 0
        np.add.at(table, (self.labels[inside], self.parts[inside]), 1)
        return table


def unreadable(why: dict[str, str], count: int, limit: float) -> Finding:
    """Report unreadable images.

    Args:
        why: the reason for each unreadable image, by name.
        count: images in all, readable or not.
        limit: largest share of unreadable images, 0..1, before training stops.
    """
    if not why:
        return Finding(topic="unreadable images", severity="fine", sentence=f"All {count:,} images can be read.")
    stops = len(why) > limit * count
    return Finding(
        topic="unreadable images",
        severity="problem" if stops else "warning",
        sentence=f"{len(why):,} of {count:,} images cannot be read: "
        f"{_some([f'{name} ({text})' for name, text in why.items()])}."
        + (f" Training stops above a share of {limit:g}." if stops else " Training leaves them out."),
        remedy="Mend or remove them" + (", or allow more with --loading.max-unreadable." if stops else "."),
        details=tuple(f"{name}: {text}" for name, text in why.items()),
    )


def classes_and_parts(images: Images) -> list[Finding]:
    """Report classes that are too small, missing from a part, or far from equal in size."""
    counts = images.counts()
    if not images.classes:
        text = "No image has a label: good for pretraining, not for transfer or a comparison."
        return [Finding(topic="classes", severity="fine", sentence=text)]
    trained = counts[:-1, PARTS.index("train")]
    found = []
    small = [(name, count) for name, count in zip(images.classes, trained.tolist(), strict=True) if count < MIN_TRAIN]
    if small:
        named = _some([f"{name} ({count})" for name, count in small])
        found.append(
            Finding(
                topic="small classes",
                severity="problem" if min(count for _, count in small) == 0 else "warning",
                sentence=f"{counted(len(small), 'class has', 'classes have')} fewer than {MIN_TRAIN} training images: "
                f"{named}.",
                remedy="Add images, merge classes, or remove them: with so few nothing can be measured.",
            )
        )
    for part in ("validation", "test"):
        present = counts[:-1, PARTS.index(part)]
        absent = [name for name, count in zip(images.classes, present.tolist(), strict=True) if not count]
        if present.any() and absent:
            found.append(
                Finding(
                    topic=f"classes without {part} images",
                    severity="warning",
                    sentence=f"{counted(len(absent), 'class has', 'classes have')} no {part} image: {_some(absent)}.",
                    remedy=f"Accuracy says nothing about them. Add {part} images of each.",
                )
            )
    smallest, largest = int(trained.argmin()), int(trained.argmax())
    ratio = trained[largest] / max(1, trained[smallest])
    extremes = f"{images.classes[largest]} {trained[largest]:,}, {images.classes[smallest]} {trained[smallest]:,}"
    text = f"the training images of the smallest ({extremes})."
    found.append(
        Finding(
            topic="balance",
            severity="warning" if ratio > MAX_IMBALANCE else "fine",
            sentence=f"The largest of {len(images.classes)} classes has {ratio:.1f} times {text}"
            if smallest != largest
            else f"Each of {len(images.classes)} classes has {trained[largest]:,} training images.",
            remedy="Accuracy will mostly measure the large classes." if ratio > MAX_IMBALANCE else "",
        )
    )
    return found


def sizes(found: np.ndarray, image_size: int) -> list[Finding]:
    """Compare (N, 2) widths and heights before storing with the image size of the model."""
    short, long = found.min(axis=1), found.max(axis=1)
    low, middle, high = short.min(), int(np.median(short)), short.max()
    text = f"shorter sides of {low} to {high} px, median {middle}" if low < high else f"shorter sides of {low} px"
    small, stretched = np.flatnonzero(short < image_size), np.flatnonzero(long > MAX_RATIO * short)
    findings = [
        Finding(
            topic="sizes",
            severity="warning" if len(small) > FEW * len(short) else "fine",
            sentence=f"{text[0].upper()}{text[1:]}; {len(small):,} of {len(short):,} are below --image-size "
            f"{image_size}" + (" and are enlarged." if len(small) else "."),
            remedy=_about_small(short, image_size) if len(small) > FEW * len(short) else "",
            groups=tuple((index,) for index in small.tolist()) if 0 < len(small) <= FEW * len(short) else (),
        )
    ]
    if len(stretched):
        findings.append(
            Finding(
                topic="shapes",
                severity="warning" if len(stretched) > FEW * len(short) else "fine",
                sentence=f"{counted(len(stretched), 'image is', 'images are')} more than {MAX_RATIO:g} times as long "
                f"as wide (up to {float((long / short).max()):.1f}); of each the middle square is used.",
                remedy="Where what matters lies outside the middle, cut such images into squares first.",
                groups=tuple((index,) for index in stretched.tolist()),
            )
        )
    return findings


def _about_small(short: np.ndarray, image_size: int) -> str:
    usual = int(np.quantile(short, 0.1))
    if usual < image_size:
        return f"Nine of ten have {usual} px and more: a smaller --image-size is quicker and loses little."
    return "Most are large enough: look at the small ones, and remove what shows nothing."


def values(moments: Moments, parts: np.ndarray, value_range: Range, dtype: str) -> list[Finding]:
    """Report blank images, the channel statistics of the pool, and parts whose colours differ from it."""
    low, high = value_range
    deviation = np.sqrt(np.clip(moments.square - np.square(moments.mean), 0.0, None)) / (high - low)
    blank = np.flatnonzero((deviation < _BLANK).all(axis=1))
    findings = []
    if len(blank):
        findings.append(
            Finding(
                topic="blank images",
                severity="warning",
                sentence=f"{counted(len(blank), 'image is', 'images are')} of one colour.",
                remedy="Nothing can be learned from them: remove them, unless empty is what they mean.",
                groups=tuple((index,) for index in blank.tolist()),
            )
        )
    mean, spread = channel_statistics(moments, np.isin(parts, pool_parts()), value_range)
    findings.append(
        Finding(
            topic="channels",
            severity="fine",
            sentence=f"{counted(len(mean), 'channel')} of {dtype}, {low:g} to {high:g} as 0 to 1: mean "
            f"{_numbers(mean)}, deviation {_numbers(spread)} over the pool.",
        )
    )
    unlike = []
    for number, part in enumerate(PARTS):
        shift = _shift(moments.mean, parts, number)
        if number not in pool_parts() and shift > MAX_SHIFT:
            unlike.append(f"{part} by {shift:.1f}")
    if unlike:
        findings.append(
            Finding(
                topic="unlike parts",
                severity="warning",
                sentence=f"Brightness or colours differ from the pool's: {', '.join(unlike)} deviations of an image's "
                "mean.",
                remedy="The parts may come from different cameras, places or times; a score on them is about both.",
            )
        )
    return findings


def channel_statistics(moments: Moments, chosen: np.ndarray, value_range: Range) -> tuple[np.ndarray, np.ndarray]:
    """Compute each channel's mean (C,) and deviation (C,) over the chosen images ((N,) bool), in 0..1."""
    low, high = value_range
    if not chosen.any():
        chosen = np.ones(len(chosen), bool)
    mean, square = moments.mean[chosen].mean(axis=0), moments.square[chosen].mean(axis=0)
    deviation = np.sqrt(np.clip(square - np.square(mean), 0.0, None))
    return (mean - low) / (high - low), deviation / (high - low)


def pool_parts() -> tuple[int, int]:
    """Return the positions in `PARTS` of the parts that form the pretraining pool."""
    return PARTS.index("unlabeled"), PARTS.index("train")


def _shift(means: np.ndarray, parts: np.ndarray, part: int) -> float:
    """Measure a part's distance from the pool's mean, in deviations of an image's mean; 0 where chance explains it."""
    here, pool = means[parts == part], means[np.isin(parts, pool_parts())]
    if not len(here) or not len(pool):
        return 0.0
    distance = np.abs(here.mean(axis=0) - pool.mean(axis=0)) / np.maximum(pool.std(axis=0), 1e-12)
    return float(distance.max()) if distance.max() > 4.0 / np.sqrt(len(here)) else 0.0


def _some(listed: Sequence[str], most: int = 3) -> str:
    return ", ".join(listed[:most]) + (f" and {len(listed) - most:,} more" if len(listed) > most else "")


def _numbers(numbers: np.ndarray) -> str:
    return " ".join(f"{value:.3f}" for value in numbers)
