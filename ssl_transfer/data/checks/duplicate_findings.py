"""Report copies among images: exact and near ones, across parts and within, with one label or several. N images.

Groups are as in `split/groups.py`: a code per image, -1 for an image without a group.
"""

import numpy as np

from ssl_transfer.data.dataset import PARTS
from ssl_transfer.data.split.assemble import leaks
from ssl_transfer.engine.console.formatting import counted

from .findings import FEW, Finding, Images

Groups = tuple[tuple[int, ...], ...]


def exact_copies(images: Images, codes: np.ndarray) -> list[Finding]:
    """Report images with equal stored pixels: across parts, within one, and with different labels."""
    topic = "exact copies"
    if not (codes >= 0).any():
        return [Finding(topic=topic, severity="fine", sentence="No two images are equal.")]
    across, within, unlike = _kinds(images, codes)
    found = []
    if across:
        found.append(
            Finding(
                topic=f"{topic} across parts",
                severity="problem",
                sentence=f"{counted(len(across), 'image has', 'images have')} exact copies in several of pool, "
                f"validation and test {_example(images, across)}.",
                remedy="A test of what was trained on shows nothing. Remove the copies from training, or let "
                "--loading.leakage drop leave them out.",
                groups=across,
            )
        )
    if unlike:
        found.append(
            Finding(
                topic=f"{topic} with different labels",
                severity="problem",
                sentence=f"{counted(len(unlike), 'image carries', 'images carry')} more than one label "
                f"{_example(images, unlike, labels=True)}.",
                remedy="At most one of the labels is right: mend or remove the others.",
                groups=unlike,
            )
        )
    if within:
        extra = sum(len(group) - 1 for group in within)
        found.append(
            Finding(
                topic=f"{topic} within a part",
                severity="warning",
                sentence=f"{counted(extra, 'image is a copy', 'images are copies')} of another in the same part "
                f"{_example(images, within)}.",
                remedy="They count several times, in training and in the score. Keep one of each.",
                groups=within,
            )
        )
    return found


def near_duplicates(images: Images, codes: np.ndarray, copies: np.ndarray) -> list[Finding]:
    """Report images that differ only in size, compression or a slight change. `copies`: the groups of exact ones."""
    topic = "near duplicates"
    # Groups of exact copies alone already have a finding.
    grouped = np.flatnonzero(codes >= 0)
    single = np.where(copies < 0, -2 - np.arange(len(copies)), copies)[grouped]
    distinct = np.unique(np.stack([codes[grouped], single], axis=1), axis=0)[:, 0]
    several, number = np.unique(distinct, return_counts=True)
    codes = np.where(np.isin(codes, several[number > 1]), codes, -1)
    if not (codes >= 0).any():
        return [Finding(topic=topic, severity="fine", sentence="No two images look nearly the same.")]
    across, within, unlike = _kinds(images, codes)
    found = []
    if across:
        measured = (images.parts == PARTS.index("validation")) | (images.parts == PARTS.index("test"))
        share = (leaks(images.parts, codes) & measured).sum() / max(1, measured.sum())
        found.append(
            Finding(
                topic=f"{topic} across parts",
                severity="problem" if share > FEW else "warning",
                sentence=f"{counted(len(across), 'group of images that look', 'groups of images that look')} nearly "
                f"the same {'lies' if len(across) == 1 else 'lie'} in several of pool, validation and test, with "
                f"{share:.1%} of the validation and test images {_example(images, across)}.",
                remedy="Look at them: where they show the same thing, results are too good. Move a group to one part.",
                groups=across,
            )
        )
    if unlike:
        found.append(
            Finding(
                topic=f"{topic} with different labels",
                severity="warning",
                sentence=f"{counted(len(unlike), 'group of images that look', 'groups of images that look')} nearly "
                f"the same {'has' if len(unlike) == 1 else 'have'} different labels "
                f"{_example(images, unlike, labels=True)}.",
                remedy="Look at them: a label may be wrong, or the images too small to tell the classes apart.",
                groups=unlike,
            )
        )
    if within:
        found.append(
            Finding(
                topic=f"{topic} within a part",
                severity="warning" if sum(map(len, within)) > FEW * len(codes) else "fine",
                sentence=f"{sum(map(len, within)):,} images in {counted(len(within), 'group')} look nearly the same "
                f"as others of their part {_example(images, within)}.",
                remedy="They add less than other images. Where a part is divided they stay on one side.",
                groups=within,
            )
        )
    return found


def _kinds(images: Images, codes: np.ndarray) -> tuple[Groups, Groups, Groups]:
    """Return groups that span pool, validation and test; all others; and those of both kinds with several labels."""
    leaked = leaks(images.parts, codes)
    order = np.argsort(codes, kind="stable")
    order = order[codes[order] >= 0]
    groups = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    across = tuple(tuple(group.tolist()) for group in groups if leaked[group].any())
    within = tuple(tuple(group.tolist()) for group in groups if not leaked[group].any())
    unlike = tuple(
        tuple(group.tolist()) for group in groups if len(set(images.labels[group][images.labels[group] >= 0])) > 1
    )
    return across, within, unlike


def _example(images: Images, groups: Groups, *, labels: bool = False) -> str:
    """Name the first images of the first group, of different parts or labels."""
    kinds = images.labels if labels else images.parts
    first: dict[int, int] = {}
    for index in groups[0]:
        first.setdefault(int(kinds[index]), index)
    chosen = list(first.values()) if len(first) > 1 else list(groups[0])
    text = " and ".join(str(images.names[index]) for index in chosen[:2])
    return f"({'for example ' if len(groups) > 1 or len(groups[0]) > 2 else ''}{text})"
