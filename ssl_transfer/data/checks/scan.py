"""Read a data set and check it: an error that would stop training becomes a finding, and the rest is still read."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ssl_transfer.data import sources
from ssl_transfer.data.dataset import EIGHT_BITS, PARTS, Dataset, Moments
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.split import assemble, duplicates
from ssl_transfer.data.store import cache
from ssl_transfer.data.store.columns import Stored
from ssl_transfer.data.store.decode import headers_of
from ssl_transfer.data.store.image_files import SUFFIXES, Header
from ssl_transfer.data.store.listing import Listing, Lookup
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io.home_folder import expanded

from . import duplicate_findings as check_copies
from . import findings as checks
from .findings import Finding, Images

_ANY_SHARE = 0.999999
"""Largest allowed share of unreadable images during a check: all images but one in a million."""
_TOLD = ("images cannot be read", "exact copies in several parts")
"""Parts of notes that a finding already covers in more detail."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Images of a data set and all findings on them."""

    dataset: Dataset
    stored: Stored
    images: Images
    divided: tuple[str, ...]
    """Parts that the data lacks and that were split off its training images."""
    findings: tuple[Finding, ...]
    """Sorted by severity, the worst first."""

    @property
    def moments(self) -> Moments:
        """Return the moments of each image and channel."""
        return Moments(mean=np.asarray(self.stored.means), square=np.asarray(self.stored.squares))


def survey(source: str, *, image_size: int, config: LoadingConfig) -> Survey:
    """Read the images behind a DATA string and run all checks on them.

    Raises:
        InputError: an unknown source, or one without readable images; flags that do not fit it.
    """
    lenient = replace(config, leakage="allow", max_unreadable=_ANY_SHARE)
    findings: list[Finding] = []
    try:
        listing, stored = sources.read(source, image_size=image_size, config=lenient)
    except InputError as error:
        most, strange = _of_one_kind(source, lenient)
        if most is None:
            raise
        listing = most
        findings.append(
            Finding(
                topic="images of several kinds",
                severity="problem",
                sentence=str(error),
                remedy="Nothing is turned silently into something else, so training stops. The rest is judged without "
                f"{counted(len(strange), 'image')} of another kind.",
                details=tuple(strange),
            )
        )
        stored = cache.store(
            listing.items, listing.names, key=listing.key, source=source, image_size=image_size, config=lenient
        )
    dataset, stops = _dataset(listing, stored, source, lenient)
    parts = np.full(len(dataset.names), -1)
    for name, indices in dataset.splits.items():
        parts[indices.numpy()] = PARTS.index(name)
    images = Images(
        names=np.asarray(dataset.names), labels=dataset.labels.numpy(), parts=parts, classes=dataset.classes
    )
    findings += [
        *stops,
        *_empty_classes(source),
        checks.unreadable(stored.unreadable, len(listing.items), config.max_unreadable),
        *_copies(images, stored),
        *checks.classes_and_parts(images),
        *checks.sizes(np.asarray(stored.sizes), image_size),
        *checks.values(_moments(stored), parts, dataset.value_range, dtype_of(dataset)),
        *(_finding_of(note) for note in dataset.notes if not any(told in note for told in _TOLD)),
    ]
    present = {PARTS[number] for number in np.unique(listing.parts)}
    return Survey(
        dataset=dataset,
        stored=stored,
        images=images,
        divided=tuple(name for name in PARTS[2:] if name not in present and len(dataset.splits[name])),
        findings=tuple(sorted(findings, key=lambda one: checks.SEVERITIES.index(one.severity))),
    )


def dtype_of(dataset: Dataset) -> str:
    """Return the name of the stored pixels' dtype."""
    return str(dataset.pixels[torch.tensor([0])].dtype).removeprefix("torch.")


def _moments(stored: Stored) -> Moments:
    return Moments(mean=np.asarray(stored.means), square=np.asarray(stored.squares))


def _copies(images: Images, stored: Stored) -> list[Finding]:
    copies = duplicates.exact_groups(np.asarray(stored.digests))
    found = check_copies.exact_copies(images, copies)
    sides = np.asarray(stored.sizes).min(axis=1)
    if not len(stored.hashes) or (sides < duplicates.SMALLEST_SIDE).all():
        text = "Not looked for: these images are too small to tell near ones from others."
        return [*found, Finding(topic="near duplicates", severity="fine", sentence=text)]
    near = duplicates.near_groups(np.asarray(stored.hashes), np.asarray(stored.thumbnails), sides=sides)
    return [*found, *check_copies.near_duplicates(images, near, copies)]


def _finding_of(note: str) -> Finding:
    warns = note.startswith("warning: ")
    text = note.removeprefix("warning: ")
    return Finding(topic="loading", severity="warning" if warns else "fine", sentence=text[0].upper() + text[1:])


def _dataset(listing: Listing, stored: Stored, source: str, config: LoadingConfig) -> tuple[Dataset, list[Finding]]:
    """Assemble the data set as for training; where it cannot be split, return it unsplit with a finding."""
    try:
        return assemble.assemble(listing, stored, source=source, config=config), []
    except InputError as error:
        if config.group_by is not None:
            # The grouping may be at fault, which is a mistake of the command's, not of the data.
            assemble.assemble(listing, stored, source=source, config=replace(config, group_by=None, block=None))
            raise
        found = Finding(
            topic="division",
            severity="problem",
            sentence=str(error),
            remedy="Training stops at this. The parts are judged as they lie there, undivided.",
        )
    kept = np.asarray(stored.kept)
    parts, ranges = listing.parts[kept], np.asarray(stored.ranges)
    low, high = (float(ranges[:, 0].min()), float(ranges[:, 1].max())) if len(ranges) else EIGHT_BITS
    dataset = Dataset(
        source=source,
        pixels=stored.pixels,
        labels=torch.from_numpy(listing.labels[kept]),
        names=listing.names[kept],
        classes=listing.classes,
        splits={name: torch.from_numpy(np.flatnonzero(parts == number)) for number, name in enumerate(PARTS)},
        fingerprint="",
        value_range=(low, high if high > low else low + 1.0),
        moments=_moments(stored),
        notes=stored.notes,
    )
    return dataset, [found]


def _of_one_kind(source: str, config: LoadingConfig) -> tuple[Listing | None, list[str]]:
    """List the images of the most frequent depth and channels, and one line for each other image.

    Returns (None, []) when all images are of one kind.
    """
    kind, _, rest = source.partition(":")
    if kind not in sources.LISTERS or not rest:
        return None, []
    listing = sources.LISTERS[kind](rest, config)
    headers = headers_of(listing.items)
    kinds = [_kind(one) for one in headers]
    most = Counter(kind for kind in kinds if kind).most_common(1)
    if not most:
        return None, []
    # Unreadable images stay; `unreadable` reports them.
    kept = [index for index, kind in enumerate(kinds) if kind in ("", most[0][0])]
    strange = [
        f"{name}: {kind}" for name, kind in zip(listing.names, kinds, strict=True) if kind not in ("", most[0][0])
    ]
    if not strange:
        return None, []
    whole = listing.key
    items, chosen = listing.items, np.array(kept, dtype=np.int64)
    digest = hashlib.sha256(chosen.tobytes()).hexdigest()
    listing = Listing(
        items=Lookup(len(kept), lambda index: items[kept[index]]),
        key=lambda config: f"{whole(config)} {digest}",
        names=listing.names[chosen],
        labels=listing.labels[chosen],
        classes=listing.classes,
        parts=listing.parts[chosen],
        columns={name: values[chosen] for name, values in listing.columns.items()},
    )
    return listing, strange


def _kind(found: Header | str) -> str:
    """Name the dtype and channels that all images must share; 8-bit grey and RGB count as one. Empty if unreadable."""
    if isinstance(found, str):
        return ""
    if found.dtype == "uint8" and found.channels in (1, 3):
        return "uint8, grey or RGB"
    return f"{found.dtype}, {counted(found.channels, 'channel')}"


def _empty_classes(source: str) -> list[Finding]:
    """Report class folders without images; training does not count them as classes."""
    kind, _, rest = source.partition(":")
    root = expanded(Path(rest), flag="--data folder:")
    if kind != "folder" or not root.is_dir():
        return []
    parts = [root / name for name in ("train", "val", "validation", "test") if (root / name).is_dir()]
    bare = not parts and not (root / "unlabeled").is_dir()
    empty = [
        str(folder.relative_to(root))
        for part in (parts or [root] * bare)
        for folder in sorted(part.iterdir())
        if folder.is_dir() and not folder.name.startswith(".") and not _has_image(folder)
    ]
    if not empty:
        return []
    return [
        Finding(
            topic="empty folders",
            severity="warning",
            sentence=f"{counted(len(empty), 'folder holds', 'folders hold')} no images: {', '.join(empty[:3])}"
            + (f" and {len(empty) - 3:,} more." if len(empty) > 3 else "."),
            remedy="They are not classes. Remove them, or see what became of their images.",
            details=tuple(empty),
        )
    ]


def _has_image(folder: Path) -> bool:
    suffixes = tuple(SUFFIXES)
    return any(
        name.lower().endswith(suffixes) and not name.startswith(".")
        for _, _, files in os.walk(folder, followlinks=True)
        for name in files
    )
