"""Describe a comparison for its report (`comparison.json`): protocol, differing settings, reconstructions, warnings."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.evaluation.comparison.results import Pair
from ssl_transfer.evaluation.metric_properties import ACCURACY
from ssl_transfer.stages.common.initialization import WORDS

from . import finished_arms
from .config import Arm, CompareConfig, pretraining_of
from .diagnostics import first_runs
from .grid import FinishedRun


def describe(
    folder: Path, config: CompareConfig, arms: Sequence[Arm], dataset: Dataset, finished: Sequence[FinishedRun]
) -> dict[str, Any]:
    """Describe protocol, settings and reconstructions.

    Args:
        folder: of the comparison.
        config: of the comparison.
        arms: all of them.
        dataset: that all arms are measured on.
        finished: transfer runs.
    """
    recipes = {(arm.name, arm.label): found for arm in arms if (found := _recipe_of(arm)) is not None}
    return {
        "data": dataset.describe(),
        "source": config.data,
        "image_size": config.image_size,
        "data_fingerprint": dataset.fingerprint,
        "classes": list(dataset.classes),
        "backbones": {arm.label: configuration.to_dict(arm.backbone) for arm in arms},
        "starts": {arm.name: arm.init for arm in arms if arm.init not in WORDS},
        "labels": list(config.labels),
        "images": {run.labels: [run.result["num_train"], run.result["num_validation"]] for run in finished},
        "num_classes": len(dataset.classes),
        "num_test": len(dataset.splits["test"]),
        "num_pool": len(dataset.pool),
        "seeds": list(config.seeds),
        "pretrain_seeds": len({pretraining_of(seed, config.pretrain_seeds) for seed in config.seeds}),
        "pretrainings": [pretraining_of(seed, config.pretrain_seeds) for seed in config.seeds],
        "primary_metric": ACCURACY.name,
        "worthwhile": config.worthwhile,
        "epochs": {arm: recipe["epochs"] for (arm, _), recipe in recipes.items()},
        "plan": configuration.to_dict(config.transfer),
        "tune": config.tune,
        "settings": _differing_settings(recipes),
        "reconstructions": _reconstructions(folder, finished, recipes),
    }


def collapses(pretrained: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    """Warn of pretrainings that collapsed, from their results by folder; older versions did not record it."""
    return [
        f"The representation of {folder.name} collapsed in step {result['collapsed']['step']}: what "
        "transfer made of it says little about the method. The run's metrics.jsonl has the measured values."
        for folder, result in pretrained.items()
        if result.get("collapsed")
    ]


def falls(finished: Iterable[FinishedRun]) -> list[str]:
    """Warn of arms whose accuracy fell sharply when a phase of the chosen plan began (`transfer.phase_switch`)."""
    found: dict[tuple[str, ...], list[int]] = {}
    for run in finished:
        for fall in run.result.get("falls", []):
            key = (run.arm.name, run.arm.label, run.labels, fall["phase"], fall["split"], fall["remedy"])
            found.setdefault(key, []).append(run.seed)
    return [
        f"{arm} on {label}, {labels} labels a class, {counted(len(seeds), 'run')}: the {split} accuracy fell sharply "
        f"at the start of phase {phase} of the chosen plan. Try {remedy}."
        for (arm, label, labels, phase, split, remedy), seeds in found.items()
    ]


def _recipe_of(arm: Arm) -> dict[str, Any] | None:
    """Return the pretraining settings of an arm, here or in the run that it is; None without, or where unknown."""
    if arm.recipe is not None:
        return configuration.to_dict(arm.recipe)
    return None if arm.run is None else finished_arms.recipe_of(arm.run)


def _differing_settings(recipes: Mapping[Pair, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the settings that two or more arms have with different values, by name and by arm."""
    flat = {_name(pair): configuration.flatten(dict(recipe)) for pair, recipe in recipes.items()}
    settings: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for recipe in flat.values() for name in recipe):
        values = {arm: recipe[name] for arm, recipe in flat.items() if name in recipe}
        if any(value != next(iter(values.values())) for value in values.values()):
            settings[name] = values
    return settings


def _reconstructions(folder: Path, finished: Sequence[FinishedRun], pretrained: Iterable[Pair]) -> dict[str, str]:
    """Return the paths of reconstructions below the folder, by arm, of methods that reconstruct."""
    paths = {
        _name(pair): Path(run.job.config.init) / "reconstructions.png"
        for pair, run in first_runs(finished).items()
        if pair in pretrained
    }
    return {arm: path.relative_to(folder).as_posix() for arm, path in paths.items() if path.is_file()}


def _name(pair: Pair) -> str:
    return f"{pair[0]} on {pair[1]}"
