"""Assemble a data set from listed and stored images: groups, parts, and images to leave out."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from ssl_transfer.data.dataset import EIGHT_BITS, PARTS, Dataset, Moments
from ssl_transfer.data.loading_config import LoadingConfig, Range
from ssl_transfer.data.store.columns import Stored
from ssl_transfer.data.store.listing import Listing
from ssl_transfer.engine.errors import InputError

from . import duplicates, groups, splits

_LEFT_OUT = -1
_NUMBER = {name: number for number, name in enumerate(PARTS)}


def assemble(listing: Listing, stored: Stored, *, source: str, config: LoadingConfig) -> Dataset:
    """Split missing parts off the training images, and compute the fingerprint.

    Raises:
        InputError: exact duplicates lie in several of the data's own parts; a class is too small to divide.
    """
    kept = np.asarray(stored.kept)
    labels, names, parts = listing.labels[kept], listing.names[kept], listing.parts[kept].copy()
    notes = list(stored.notes)
    copies = duplicates.exact_groups(np.asarray(stored.digests))
    parts = _without_leaks(parts, copies, names, source, config, notes)
    own = _own_groups(listing, kept, config)
    _tell_straddling(parts, own, config, notes)
    missing = [name for name in ("test", "validation") if not (parts == _NUMBER[name]).any()]
    if missing and (parts == _NUMBER["train"]).any():
        together = [group for group in (copies, _near(stored, config), own) if group is not None]
        joined = groups.merge_groups(*together)
        _divide(parts, labels, listing.classes, joined, missing, config, notes)
    found = {name: torch.from_numpy(np.flatnonzero(parts == number)) for name, number in _NUMBER.items()}
    return Dataset(
        source=source,
        pixels=stored.pixels,
        labels=torch.from_numpy(labels),
        names=names,
        classes=listing.classes,
        splits=found,
        fingerprint=_fingerprint(names, listing.classes, labels, parts, np.asarray(stored.digests)),
        value_range=_range(stored, parts, config),
        contents=np.asarray(stored.contents),
        moments=Moments(mean=np.asarray(stored.means), square=np.asarray(stored.squares)),
        notes=tuple(notes),
    )


def leaks(parts: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Find images whose group (-1: none) also lies in another of pool, validation and test: (N,) bool.

    Args:
        parts: (N,) positions in `PARTS`; -1 is in none.
        codes: (N,) int64, of the groups.
    """
    # Training and unlabelled images are both the pool: a copy in each does no harm.
    sides = np.where(parts == _NUMBER["unlabeled"], _NUMBER["train"], parts)
    counted = (codes >= 0) & (sides >= 0)
    pairs = np.unique(np.stack([codes[counted], sides[counted]], axis=1), axis=0)
    values, counts = np.unique(pairs[:, 0], return_counts=True)
    return counted & np.isin(codes, values[counts > 1])


def _without_leaks(
    parts: np.ndarray, copies: np.ndarray, names: Sequence[str], source: str, config: LoadingConfig, notes: list[str]
) -> np.ndarray:
    """Return the parts; with `drop`, without copies of test images in the others."""
    leaked = leaks(parts, copies)
    if not leaked.any():
        return parts
    first = copies[leaked.argmax()]
    example = " = ".join(str(names[index]) for index in np.flatnonzero(copies == first)[:3])
    count = len(np.unique(copies[leaked]))
    message = f"{count} images have exact copies in several parts of {source} (for example {example})"
    if config.leakage == "stop":
        raise InputError(
            f"{message}: a test of what was trained on shows nothing. `ssl-transfer data check` lists them; "
            "--loading.leakage drop leaves the copies out of training and validation, allow keeps them."
        )
    if config.leakage == "allow":
        notes.append(f"warning: {message}: results on them show little (--loading.leakage allow).")
        return parts
    tested = np.isin(copies, copies[leaked & (parts == _NUMBER["test"])])
    # A group without a test image leaks between the pool and validation.
    dropped = leaked & np.where(tested, parts != _NUMBER["test"], parts != _NUMBER["validation"])
    notes.append(f"{message}: {int(dropped.sum())} copies are left out (--loading.leakage drop).")
    return np.where(dropped, _LEFT_OUT, parts)


def _own_groups(listing: Listing, kept: np.ndarray, config: LoadingConfig) -> np.ndarray | None:
    """Group images by the user's column or pattern, or by squares of the map where a block is given."""
    if config.group_by is None:
        return None
    wanted = [name.strip() for name in config.group_by.split(",")]
    if all(name in listing.columns for name in wanted):
        columns = [listing.columns[name][kept] for name in wanted]
        if config.block is not None:
            return groups.groups_from_coordinates(*columns, block=config.block)
        return groups.groups_from_values(["\0".join(values) for values in zip(*columns, strict=True)])
    if listing.columns and config.group_by.replace(",", "").replace("_", "").isalnum():
        raise InputError(
            f"--loading.group-by {config.group_by}: the table has the columns {', '.join(listing.columns)}."
        )
    if config.block is not None:
        return groups.groups_from_coordinates(
            *groups.captured(listing.names[kept], config.group_by), block=config.block
        )
    return groups.groups_from_pattern(listing.names[kept], config.group_by)


def _tell_straddling(parts: np.ndarray, own: np.ndarray | None, config: LoadingConfig, notes: list[str]) -> None:
    if own is None:
        return
    straddling = leaks(parts, own)
    if straddling.any():
        notes.append(
            f"warning: {len(np.unique(own[straddling]))} groups of --loading.group-by {config.group_by} lie in several "
            "of the parts that the data itself has, which are kept as they are."
        )


def _near(stored: Stored, config: LoadingConfig) -> np.ndarray | None:
    if config.near_duplicates == "free" or not len(stored.hashes):
        return None
    sides = np.asarray(stored.sizes).min(axis=1)
    return duplicates.near_groups(np.asarray(stored.hashes), np.asarray(stored.thumbnails), sides=sides)


def _divide(
    parts: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    joined: np.ndarray,
    missing: list[str],
    config: LoadingConfig,
    notes: list[str],
) -> None:
    """Move training images, in place, to the missing parts; unlabelled images of their groups are left out."""
    divided = joined[(parts == _NUMBER["train"]) & (joined >= 0)]
    together = np.unique(divided, return_counts=True)[1]
    fractions = {"test": (config.test_fraction, 1), "validation": (config.validation_fraction, 2)}
    for name in missing:
        fraction, stream = fractions[name]
        _, share = splits.divide(
            np.flatnonzero(parts == _NUMBER["train"]),
            labels,
            list(classes),
            fraction=fraction,
            seed=config.split_seed,
            stream=stream,
            groups=joined,
        )
        parts[share] = _NUMBER[name]
        partners = groups.partners(share, joined, np.flatnonzero(parts == _NUMBER["unlabeled"]))
        if len(partners):
            parts[partners] = _LEFT_OUT
            notes.append(f"{len(partners)} unlabelled images are left out, as they belong to {name} images.")
    if (together > 1).any():
        kinds = ["copies", "near duplicates", *(["--loading.group-by"] if config.group_by is not None else [])]
        notes.append(
            f"{int(together[together > 1].sum())} of the images to divide lie in {int((together > 1).sum())} group(s) "
            f"({', '.join(kinds)}), each kept on one side."
        )


def _range(stored: Stored, parts: np.ndarray, config: LoadingConfig) -> Range:
    """Return the stored values that become 0 and 1."""
    if config.value_range is not None:
        return config.value_range
    if stored.pixels.dtype == torch.uint8:
        return EIGHT_BITS
    pool = (parts == _NUMBER["train"]) | (parts == _NUMBER["unlabeled"])
    ranges = stored.ranges[pool]
    low, high = float(ranges[:, 0].min()), float(ranges[:, 1].max())
    if not low < high:
        raise InputError("The images of the pool hold one value only; give --loading.value-range LOW HIGH.")
    return low, high


def _fingerprint(
    names: np.ndarray, classes: tuple[str, ...], labels: np.ndarray, parts: np.ndarray, digests: np.ndarray
) -> str:
    digest = hashlib.sha256("\n".join(classes).encode())
    for name in names:
        digest.update(f"{name}\n".encode())
    for array in (labels.astype(np.int64), parts.astype(np.int8), digests.astype(np.uint64)):
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
