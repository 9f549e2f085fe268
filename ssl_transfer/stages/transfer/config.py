"""Configure transfer runs."""

from dataclasses import dataclass, replace
from typing import Any

from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.errors import InputError
from ssl_transfer.stages.common.initialization import Initial
from ssl_transfer.stages.common.run_config import Followed, RunConfig, check_positive

from .plans.recipe import TransferRecipe


@dataclass(frozen=True, kw_only=True)
class PlannedConfig(Followed, TransferRecipe, Initial):
    """Settings of every stage that trains a model through a plan."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig(RunConfig, PlannedConfig):
    """Train a head on labelled images, and fine-tune the backbone as the plan says."""

    labels: str = "all"
    """Labelled images per class, a share of each class (0.1 or 10%), or all. Validation holds no more a class."""
    keep_model: bool = True
    """Export the chosen model: its backbone and its head."""
    tune: int = 1
    """Trials of the plan, of which validation chooses one: the plan as it stands, then trials with learning rates and
    weight decay within a factor of ten of its own. Each trial costs a whole run; 1 tunes nothing."""
    find_rate: bool = False
    """Train nothing: run the learning-rate range test of the first phase (Smith 2017), print the suggested rate, and
    draw the curve."""


def check_tuning(config: TransferConfig) -> None:
    """Refuse a number of trials below 1, and settings that the learning-rate range test would ignore."""
    check_positive(tune=config.tune)
    if config.find_rate and config.tune > 1:
        raise InputError(f"--tune {config.tune} would be ignored: --find-rate trains nothing. Leave one out.")
    if config.find_rate and config.dry_run:
        raise InputError("--dry-run would be ignored: --find-rate trains nothing. Leave one out.")


def for_arm(recipe: TransferRecipe, **settings: Any) -> TransferConfig:
    """Configure a run of a comparison: the recipe of all arms, and the settings of this run."""
    return replace(TransferConfig(**settings), **configuration.shallow(recipe))
