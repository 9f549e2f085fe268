"""Check a comparison before anything is trained: its settings, its launcher, its arms on its images."""

from collections.abc import Sequence

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.split import splits
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.launch import slurm
from ssl_transfer.evaluation.comparison.results import WORTHWHILE
from ssl_transfer.models.init_names import is_timm
from ssl_transfer.stages.common.initialization import Initial, initial_backbone
from ssl_transfer.stages.common.run_config import check_positive
from ssl_transfer.stages.pretrain import config as pretraining
from ssl_transfer.stages.transfer.setup import fitted

from . import finished_arms
from .config import Arm, CompareConfig, pretraining_of

MOST_WORTHWHILE = 100.0
"""Points between the least and the greatest accuracy."""


def check_settings(config: CompareConfig) -> None:
    """Raise InputError for every bad setting that shows without images: reading them may take long."""
    check_positive(tune=config.tune)
    config.transfer.phases(steps_per_epoch=1)
    seeds = " ".join(map(str, config.seeds))
    if not config.labels or not config.seeds:
        raise InputError("--labels and --seeds need at least one value each.")
    for flag, values in (("labels", config.labels), ("seeds", config.seeds)):
        if len(set(values)) < len(values):
            raise InputError(f"--{flag} {' '.join(map(str, values))}: each value only once.")
    if min(config.seeds) < 0:
        raise InputError(f"--seeds {seeds}: 0 or more.")
    if not 0.0 < config.worthwhile <= MOST_WORTHWHILE:
        raise InputError(
            f"--worthwhile {config.worthwhile:g}: points of accuracy, above 0 and at most {MOST_WORTHWHILE:g}. The "
            f"default is {WORTHWHILE:g}."
        )
    if config.pretrain_seeds is None:
        return
    check_positive(pretrain_seeds=config.pretrain_seeds)
    if config.pretrain_seeds > len(config.seeds):
        raise InputError(
            f"--pretrain-seeds {config.pretrain_seeds}: more than the {len(config.seeds)} --seeds that would use them."
        )
    turns = {pretraining_of(seed, config.pretrain_seeds) for seed in config.seeds}
    if len(turns) < config.pretrain_seeds:
        raise InputError(
            f"--pretrain-seeds {config.pretrain_seeds}: seed s takes pretraining s modulo {config.pretrain_seeds}, so "
            f"that --seeds {seeds} reach only {len(turns)}. Give seeds in a row, as --seeds "
            f"{' '.join(map(str, range(len(config.seeds))))}, or fewer pretraining seeds."
        )


def check_launcher(config: CompareConfig, runtime: Runtime) -> None:
    """Raise InputError where this launcher cannot run the grid."""
    check_positive(jobs=config.jobs)
    several = runtime.num_processes > 1
    if several and (config.jobs > 1 or config.launcher == "slurm"):
        raise InputError(
            "--jobs and --launcher slurm run each run in one process; under a launcher with several processes leave "
            "them out."
        )
    if config.launcher == "slurm":
        if config.jobs > 1:
            raise InputError("--jobs is for this machine; with --launcher slurm say --slurm.at-a-time.")
        slurm.check(config.slurm)
    elif config.slurm != slurm.SlurmConfig():
        raise InputError("--slurm settings would be ignored: add --launcher slurm.")


def check_arms(config: CompareConfig, arms: Sequence[Arm], dataset: Dataset) -> list[str]:
    """Build every arm on the images, so that a mistake shows before hours of training.

    Returns:
        Warnings.

    Raises:
        InputError: an arm does not fit the images, or a budget or batch is larger than they are.
    """
    if len(dataset.classes) < 2:
        raise InputError(f"--data {config.data}: comparing needs labelled images of two or more classes.")
    for text in config.labels:
        per_class = splits.parse_budget(text)
        train = dataset.splits["train"]
        splits.budget(train, dataset.labels, dataset.classes, per_class=per_class, seed=0, stream=splits.LABELED)
    warnings = []
    for arm in arms:
        if arm.recipe is not None and arm.recipe.batch_size > len(dataset.pool):
            raise InputError(
                f"--{pretraining.name_of(arm.recipe.method)}.batch-size {arm.recipe.batch_size}: the pool of "
                f"{config.data} has only {len(dataset.pool)} images. Give at most that, as in --batch-size "
                f"{len(dataset.pool)}."
            )
        backbone, _ = initial_backbone(Initial(image_size=config.image_size, **arm.start), dataset, arm.run)
        if is_timm(arm.init):
            warnings += _other_network(arm, arms)
        if arm.run is not None:
            warnings += finished_arms.check_images(arm.run, dataset, config.loading)
        if arm.recipe is not None:
            pretraining.prepare(pretraining.fitted(arm.recipe, len(dataset.pool)), backbone)
        fitted(config.transfer, backbone, len(dataset.classes))
    return warnings


def _other_network(arm: Arm, arms: Sequence[Arm]) -> list[str]:
    """Warn where weights of timm stand beside the same backbone with another stem or other arguments."""
    beside = next((one for one in arms if one.backbone.name == arm.backbone.name and one.label != arm.label), None)
    if beside is None:
        return []
    return [
        f"{arm.name} runs as its weights were trained ({arm.label}), beside {beside.name} on {beside.label}: stem and "
        "arguments of --backbone do not reach it."
    ]
