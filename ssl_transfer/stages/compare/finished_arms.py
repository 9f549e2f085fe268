"""Resolve arms that use finished weights: of a run, or of timm."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.runs.seal import RESULT_FILE
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.models.init_names import RUN, is_timm
from ssl_transfer.models.spec import stem_of
from ssl_transfer.stages.common.checkpoint_data import MEASURING, matched
from ssl_transfer.stages.common.initialization import AUTO, label_of, timm_backbone
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.pretrain.config import Recipe


def is_folder(name: str) -> bool:
    """Check for the folder of a run: a path with a separator, so that no folder hides a method of its name."""
    return not is_timm(name) and ("/" in name or os.sep in name)


def has_weights(name: str) -> bool:
    """Check whether an arm uses finished weights."""
    return is_timm(name) or is_folder(name)


def backbone_of(name: str, run: Run | None, image_size: int, in_use: Iterable[BackboneConfig]) -> BackboneConfig:
    """Return the backbone of an arm; one of those in use where both are equal at this size, so that they share scratch.

    Args:
        name: of the arm.
        run: that the arm is; None for weights of timm.
        image_size: of the comparison, in pixels a side.
        in_use: backbones of other arms.

    Raises:
        InputError: the run has no backbone, one for images of another size, or a part of one.
    """
    if run is None:
        found = timm_backbone(name, BackboneConfig(name=AUTO))
    else:
        spec = run.spec
        if spec.image_size != image_size:
            raise InputError(
                f"--arms {name}: takes images of {spec.image_size} px, and all arms of a comparison the same, here "
                f"{image_size}. Give --image-size {spec.image_size}, or leave the arm out."
            )
        if spec.keep_blocks is not None:
            raise InputError(
                f"--arms {name}: holds only the first {spec.keep_blocks} blocks of {spec.name}, and no scratch is like "
                "it. Give a run with a whole backbone."
            )
        found = spec.config
    return next((one for one in in_use if replace(one, stem=stem_of(one, image_size)) == found), found)


def table_names(runs: Mapping[str, Run]) -> dict[str, str]:
    """Name runs for the tables by the shortest ends of their paths that differ.

    Raises:
        InputError: two have the same weights.
    """
    folders = {name: _folder(run).parts for name, run in runs.items()}
    for run in runs.values():
        fingerprint = run.backbone_file.fingerprint
        same = [other for other in runs if runs[other].backbone_file.fingerprint == fingerprint]
        if len(same) > 1:
            raise InputError(f"--arms {' '.join(same)}: they hold the same weights. Give each only once.")
    named = {}
    for name, parts in folders.items():
        others = [other for key, other in folders.items() if key != name]
        length = next(count for count in range(1, len(parts) + 1) if parts[-count:] not in [o[-count:] for o in others])
        named[name] = RUN + "/".join(parts[-length:])
    return named


def place_of(run: Run, backbone: str) -> str:
    """Name the folders of an arm by the fingerprint of its weights, wherever the run lies."""
    return f"run-{label_of(_folder(run).name)}-{label_of(backbone)}-{run.backbone_file.fingerprint[:6]}"


def check_finished(run: Run) -> None:
    """Refuse a run with settings and without a result: its costs are unknown, and the tables would hold zeros.

    Raises:
        InputError: naming the folder.
    """
    if run.result is None and run.settings:
        raise InputError(
            f"{run.folder / RESULT_FILE}: missing, so that the costs of this arm are unknown. Start the command of "
            "that run again, or take another copy of its folder."
        )


def cost_of(run: Run) -> dict[str, Any] | None:
    """Return the result of the pretraining stage of a run; None where it is unknown."""
    found = run.result or {}
    return found if {"seconds", "images_seen", "peak_memory_mb"} <= found.keys() else None


def recipe_of(run: Run) -> dict[str, Any] | None:
    """Return the pretraining settings of a run; None where it was not pretrained or its folder has none."""
    names = [field.name for field in fields(Recipe)]
    return {name: run.settings[name] for name in names} if run.settings.keys() >= set(names) else None


def check_images(run: Run, dataset: Dataset, loading: LoadingConfig) -> list[str]:
    """Check a run against the images that all arms are measured on, and return warnings.

    Raises:
        InputError: the run does not fit the images, or was trained on some of those that would measure it.
    """
    found = matched(dataset, run, loading)
    if any(len(found.splits[part]) < len(dataset.splits[part]) for part in MEASURING):
        raise InputError(
            f"{found.notes[-1]} That would measure this arm on fewer images than the others. Divide as that run did "
            "(its config.yaml has the --loading settings), or leave the arm out."
        )
    return [note.removeprefix("warning: ") for note in found.notes[len(dataset.notes) :]]


def _folder(run: Run) -> Path:
    return run.folder.resolve()
