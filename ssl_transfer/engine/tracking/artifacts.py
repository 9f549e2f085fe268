"""What a finished run's folder holds that trackers can show beside numbers: pictures, predictions, weights, origins.

All of it is read from the folder, so that `sync` finds later what the tracker found at once.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_transfer.engine.io.json_files import read_json
from ssl_transfer.engine.io.weight_files import file_fingerprint

PICTURES = {
    "views": "views.png",
    "reconstructions": "reconstructions.png",
    "confusion": "evaluation/confusion.png",
    "reliability": "evaluation/reliability.png",
    "curves": "evaluation/curves.png",
}
"""By the name that trackers show them by."""
OF_IMAGES = ("views", "reconstructions")
"""Those in which one sees images of the data set; the others are diagrams."""
PREDICTIONS = "evaluation/predictions.csv"
EXAMPLES = "evaluation/examples"
"""Pictures of a few of the predicted images, each called by its line in `PREDICTIONS`, from 0."""
MOST_TAG = 64
"""Characters that wandb takes."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Files under a name that is a function of what they are, so that the same things are one thing everywhere."""

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
    """The pictures that there are, by name; without `of_images` only diagrams."""
    names = [name for name in PICTURES if of_images or name not in OF_IMAGES]
    return {name: folder / PICTURES[name] for name in names if (folder / PICTURES[name]).is_file()}


def examples(folder: Path) -> list[Example]:
    """Predicted images with what was said of each."""
    held = {int(path.stem): path for path in (folder / EXAMPLES).glob("*.png") if path.stem.isdecimal()}
    if not held or not (folder / PREDICTIONS).is_file():
        return []
    with open(folder / PREDICTIONS, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return [Example(picture=held[number], line=lines[number]) for number in sorted(held) if number < len(lines)]


def origins(folder: Path, settings: Mapping[str, Any]) -> list[Parcel]:
    """What a run was made of: its images, by their fingerprint alone, and the weights that it began with."""
    path = folder / "environment.json"
    identity = read_json(path, remedy="Start the run again.")["identity"] if path.is_file() else {}
    found = [
        Parcel(
            name=f"data-{identity[part]}",
            kind="dataset",
            files=(),
            facts={"source": str(settings.get(part, "")), "fingerprint": str(identity[part])},
        )
        for part in ("data", "source", "target")
        if part in identity
    ]
    for part, kind in (("init", "backbone"), ("teacher", "model")):
        place = Path(str(settings.get(part) or ""))
        if part in identity and place.is_dir():
            found += [one for one in weights(place) if one.kind == kind][:1]
    return found


def weights(folder: Path) -> list[Parcel]:
    """What a run exported: its backbone, and with a head the model."""
    files = {part: folder / part / f"{part}.safetensors" for part in ("backbone", "head")}
    prints = {part: file_fingerprint(path) for part, path in files.items() if path.is_file()}
    if "backbone" not in prints:
        return []
    parts: list[tuple[str, tuple[str, ...]]] = [("backbone", ("backbone",))]
    if "head" in prints:
        parts.append(("model", ("backbone", "head")))
    return [
        Parcel(
            name="-".join([kind, *(prints[part] for part in of)]),
            kind=kind,
            files=tuple(path for part in of for path in (files[part], files[part].with_suffix(".json"))),
            facts={"run": folder.resolve().name},
        )
        for kind, of in parts
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
    """Words to find a run by: its stage, method, backbone, images, beginning and labels."""
    found = [job_type]
    for name in ("method", "backbone"):
        group = settings.get(name)
        found.append(str(group.get("name", "")) if isinstance(group, Mapping) else "")
    found += [Path(str(settings.get(name) or "")).name for name in ("data", "source", "target")]
    found += [f"{name} {Path(str(settings[name])).name}" for name in ("init", "labels") if settings.get(name)]
    return list(dict.fromkeys(re.sub(r"\s+", " ", one)[:MOST_TAG] for one in found if one))
