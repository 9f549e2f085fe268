"""List the artifacts of a finished run for trackers: pictures, predictions, weights, inputs.

All of them are read from the run's folder, by the tracker at once or by `sync` later.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_transfer.engine.runs.saved_run import SavedRun

PICTURES = {
    "views": "views.png",
    "reconstructions": "reconstructions.png",
    "confusion": "evaluation/confusion.png",
    "reliability": "evaluation/reliability.png",
    "curves": "evaluation/curves.png",
}
"""Files by their name in trackers."""
OF_IMAGES = ("views", "reconstructions")
"""Pictures with images of the data set; the others are diagrams."""
PREDICTIONS = "evaluation/predictions.csv"
EXAMPLES = "evaluation/examples"
"""Pictures of a few predicted images, named by their line in `PREDICTIONS`, from 0."""
MOST_TAG = 64
"""Longest tag of wandb, in characters."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Files under a name that depends on their content alone: equal content is one artifact everywhere."""

    name: str
    kind: str
    """dataset, backbone or model."""
    files: tuple[Path, ...]
    facts: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A predicted image and the line of `PREDICTIONS` about it."""

    picture: Path
    line: dict[str, str]


def pictures(folder: Path, *, of_images: bool) -> dict[str, Path]:
    """List the pictures by name; without `of_images` only diagrams."""
    names = [name for name in PICTURES if of_images or name not in OF_IMAGES]
    return {name: folder / PICTURES[name] for name in names if (folder / PICTURES[name]).is_file()}


def examples(folder: Path) -> list[Example]:
    """List predicted images with their predictions."""
    held = {int(path.stem): path for path in (folder / EXAMPLES).glob("*.png") if path.stem.isdecimal()}
    if not held or not (folder / PREDICTIONS).is_file():
        return []
    with open(folder / PREDICTIONS, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return [Example(picture=held[number], line=lines[number]) for number in sorted(held) if number < len(lines)]


def origins(run: SavedRun, settings: Mapping[str, Any]) -> list[Parcel]:
    """List the inputs of a run: its images, by their fingerprint alone, and its initial weights."""
    found = [
        Parcel(
            name=f"data-{run.identity[part]}",
            kind="dataset",
            files=(),
            facts={"source": str(settings.get(part, "")), "fingerprint": str(run.identity[part])},
        )
        for part in ("data", "source", "target")
        if part in run.identity
    ]
    for part, kind in (("init", "backbone"), ("teacher", "model")):
        place = Path(str(settings.get(part) or ""))
        if part in run.identity and place.is_dir():
            found += [one for one in weights(SavedRun(place)) if one.kind == kind][:1]
    return found


def weights(run: SavedRun) -> list[Parcel]:
    """List the weights that a run exported: its backbone, and the model where it has a head."""
    if not run.has_backbone:
        return []
    backbone, head = run.backbone_file, run.head_file
    parts = [("backbone", [backbone])] + ([] if head is None else [("model", [backbone, head])])
    return [
        Parcel(
            name="-".join([kind, *(file.fingerprint for file in files)]),
            kind=kind,
            files=tuple(path for file in files for path in (file.path, file.path.with_suffix(".json"))),
            facts={"run": run.path.resolve().name},
        )
        for kind, files in parts
    ]


def arm(settings: Mapping[str, Any]) -> dict[str, str]:
    """Name the arm of a run with labels for wandb: the origin of its weights, without the seed.

    The settings hold the path of the initial run alone, and `sync` must give the same name for a run that was moved or
    made by an older version. So the folder's name is the only source of the arm.
    """
    if "labels" not in settings:
        return {}
    begun = Path(str(settings.get("init", ""))).name
    taught = Path(str(settings.get("teacher") or "")).name
    # The folder of a comparison's pretraining is METHOD-BACKBONE-DIGITS-seedN; see `Arm.place`.
    name = re.sub(r"(-[0-9a-f]{6})?-seed\d+$", "", begun)
    return {"arm": f"{name}, taught by {taught}" if taught else name}


def tags(settings: Mapping[str, Any], job_type: str) -> list[str]:
    """List tags of a run: stage, method, backbone, images, initialisation and labels."""
    found = [job_type]
    for name in ("method", "backbone"):
        group = settings.get(name)
        found.append(str(group.get("name", "")) if isinstance(group, Mapping) else "")
    found += [Path(str(settings.get(name) or "")).name for name in ("data", "source", "target")]
    found += [f"{name} {Path(str(settings[name])).name}" for name in ("init", "labels") if settings.get(name)]
    return list(dict.fromkeys(re.sub(r"\s+", " ", one)[:MOST_TAG] for one in found if one))
