"""The grid of a comparison: pretraining runs (an arm, a pretraining seed) and transfer runs (an arm, a budget, a seed).

Each has a folder of its own and is keyed by its settings: a finished one is never redone, a stopped one goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import sources
from ..engine import config as configuration
from ..engine import runtime as runtimes
from . import pretrain as pretraining
from . import transfer as transferring
from .arms import Arm, CompareConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of the grid; a plain value, so that it can go to another process."""

    stage: Callable[..., dict[str, Any]]
    config: Any
    group: str

    def __call__(self) -> dict[str, Any]:
        """Run it in this process."""
        runtime = runtimes.start(self.config.mixed_precision)
        dataset = load_once(self.config.data, self.config.image_size, self.config.loading)
        return self.stage(self.config, runtime=runtime, dataset=dataset, group=self.group, quiet=True)


_LOADED: dict[str, sources.Dataset] = {}


def load_once(source: str, image_size: int, loading: sources.LoadingConfig) -> sources.Dataset:
    """The data set, kept for the next job of this process."""
    key = configuration.fingerprint([source, image_size, loading])
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = sources.load(source, image_size=image_size, config=loading)
    return _LOADED[key]


def grid(config: CompareConfig, arms: list[Arm], output: Path) -> tuple[list[Job], list[tuple[Arm, str, int, Job]]]:
    """The pretraining jobs, and the transfer jobs with the arm, budget and seed of each."""
    shared = {name: getattr(config, name) for name in ("data", "image_size", "mixed_precision", "loading", "tracking")}
    group = output.name
    pretrain_jobs, transfer_jobs = [], []
    for arm in arms:
        place = f"{arm.name}-{arm.backbone.name.replace('/', '-')}-{configuration.fingerprint(arm.backbone)[:6]}"
        # A transfer run's seed says which pretraining it starts from, whatever other seeds there are.
        for seed in sorted({seed % config.pretrain_seeds for seed in config.seeds}) if arm.recipe is not None else ():
            settings = pretraining.PretrainConfig(
                **shared,
                **configuration.shallow(arm.recipe),
                init=arm.init,
                imagenet_weights=config.imagenet_weights if arm.init == "imagenet" else None,
                seed=seed,
                output=output / "pretrain" / f"{place}-seed{seed}",
            )
            pretrain_jobs.append(Job(stage=pretraining.pretrain, config=settings, group=group))
        for labels in config.labels:
            for seed in config.seeds:
                own: dict[str, Any] = {"init": arm.init, "backbone": arm.backbone}
                if arm.recipe is not None:
                    number = seed % config.pretrain_seeds
                    own = {"init": str(output / "pretrain" / f"{place}-seed{number}")}
                elif arm.init == "imagenet":
                    own["imagenet_weights"] = config.imagenet_weights
                run = transferring.for_arm(
                    config.transfer,
                    **shared,
                    **own,
                    labels=labels,
                    seed=seed,
                    keep_model=False,
                    output=output / "transfer" / place / f"labels-{labels}" / f"seed{seed}",
                )
                transfer_jobs.append((arm, labels, seed, Job(stage=transferring.transfer, config=run, group=group)))
    return pretrain_jobs, transfer_jobs
