"""Compare initialisations: every arm through the same transfer stage, over label budgets and seeds, with intervals.

The grid is pretraining runs (an arm, a pretraining seed) and transfer runs (an arm, a backbone, a budget, a seed). Each
has a folder of its own and is keyed by its settings: a finished one is never redone, a stopped one goes on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data import sources, splits
from ..engine import config as configuration
from ..engine import jobs as job_queue
from ..engine import runtime as runtimes
from ..engine.errors import InputError
from ..engine.folder import RunFolder
from ..evaluation import tables
from ..evaluation.statistics import Row
from . import augmentation as augmentations
from . import evidence
from . import pretrain as pretraining
from . import transfer as transferring
from .arms import Arm, CompareConfig, resolve_arms
from .initial import Initial, initial_backbone
from .phases import fitted
from .run import VOLATILE, check_positive, data_label


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


def check(config: CompareConfig, arms: list[Arm], dataset: sources.Dataset) -> None:
    """Find every bad setting now: nothing has been trained, and hours may lie ahead."""
    check_positive(pretrain_seeds=config.pretrain_seeds, jobs=config.jobs)
    config.transfer.phases(steps_per_epoch=1)
    if not config.labels or not config.seeds:
        raise InputError("--labels and --seeds need at least one value each.")
    if len(set(config.seeds)) < len(config.seeds) or len(set(config.labels)) < len(config.labels):
        raise InputError("--labels and --seeds: each value only once.")
    if config.pretrain_seeds > len(config.seeds):
        raise InputError(
            f"--pretrain-seeds {config.pretrain_seeds}: more than the {len(config.seeds)} --seeds that would use them."
        )
    if len(dataset.classes) < 2:
        raise InputError(f"--data {config.data}: comparing needs labelled images of two or more classes.")
    for text in config.labels:
        per_class = splits.parse_budget(text)
        train = dataset.splits["train"]
        splits.budget(train, dataset.labels, dataset.classes, per_class=per_class, seed=0, stream=splits.LABELED)
    for arm in arms:
        if arm.recipe is not None and arm.recipe.batch_size > len(dataset.pool):
            raise InputError(
                f"--{pretraining.name_of(arm.recipe.method)}.batch-size {arm.recipe.batch_size}: the pool of "
                f"{config.data} has only {len(dataset.pool)} images. Give at most that, as in --batch-size "
                f"{len(dataset.pool)}."
            )
        start = Initial(
            init=arm.init,
            image_size=config.image_size,
            backbone=arm.backbone,
            imagenet_weights=config.imagenet_weights if arm.init == "imagenet" else None,
        )
        backbone, _ = initial_backbone(start, dataset)
        if arm.recipe is not None:
            pretraining.prepare(pretraining.fitted(arm.recipe, len(dataset.pool)), backbone)
        fitted(config.transfer, backbone, len(dataset.classes))


def compare(config: CompareConfig, *, runtime: runtimes.Runtime | None = None) -> Path:
    """Run what is missing of the grid, then write the tables and the report.

    Args:
        config: see its fields.
        runtime: shared with other stages of one process; by default a new one.

    Returns:
        The folder with `results.csv`, `summary.csv`, `curves.csv`, `report.md` and `report.html`.
    """
    from ..output import report

    # Folders and tables know a budget by one name, however it was written.
    config = replace(config, labels=tuple(splits.budget_name(text) for text in config.labels))
    runtime = runtime or runtimes.start(config.mixed_precision)
    if runtime.num_processes > 1 and config.jobs > 1:
        raise InputError(
            "--jobs divides one machine among runs; under a launcher with several processes leave it at 1."
        )
    arms = resolve_arms(config)
    dataset = load_once(config.data, config.image_size, config.loading)
    runtime.say(augmentations.introduce(dataset, config.transfer, *(arm.recipe for arm in arms)))
    check(config, arms, dataset)
    output = config.output or Path(f"runs/compare-{data_label(config.data)}")
    volatile = (*VOLATILE, "arms", "labels", "seeds", "imagenet_weights")
    identity = {"data": dataset.fingerprint}
    with RunFolder(
        output, _settings(config), runtime, identity=identity, fresh=config.fresh, volatile=volatile
    ) as folder:
        pretrain_jobs, transfer_jobs = grid(config, arms, output)
        runtime.say(
            f"{', '.join(f'{arm.name} on {arm.label}' for arm in arms)}: "
            f"{len(pretrain_jobs)} pretraining and {len(transfer_jobs)} transfer runs; {runtime.describe()}"
        )
        with job_queue.workers(config.jobs, runtime) as workers:
            pretrained = workers.run(pretrain_jobs, "pretraining")
            transferred = workers.run([job for *_, job in transfer_jobs], "transfer")

        if runtime.is_main:
            costs = {str(job.config.output): result for job, result in zip(pretrain_jobs, pretrained, strict=True)}
            rows: list[Row] = []
            curves: list[dict[str, Any]] = []
            for (arm, labels, seed, job), result in zip(transfer_jobs, transferred, strict=True):
                key = {"arm": arm.name, "backbone": arm.label, "labels": labels, "seed": seed}
                rows += tables.rows_of(key, result, costs.get(job.config.init))
                curves += tables.curves_of(key, job.config.output / "metrics.jsonl")
            tables.write(output, rows, curves)
            images = {
                labels: [result["num_train"], result["num_validation"]]
                for (_, labels, *_), result in zip(transfer_jobs, transferred, strict=True)
            }
            finished = [
                evidence.Transferred(
                    arm=arm.name, backbone=arm.label, labels=labels, num_train=result["num_train"], config=job.config
                )
                for (arm, labels, _, job), result in zip(transfer_jobs, transferred, strict=True)
            ]
            evidence.leave(output, finished, dataset, runtime)
            recipes = {(arm.name, arm.label): arm.recipe for arm in arms if arm.recipe is not None}
            described = evidence.describe(output, finished, recipes)
            description = {**_description(config, arms, dataset, images), **described}
            folder.write("comparison.json", {**description, "warnings": _warnings(pretrain_jobs, pretrained)})
            report.draw(output)
        runtime.wait()
        return output


def _settings(config: CompareConfig) -> dict[str, Any]:
    settings = configuration.to_dict(config)
    recipes = settings.pop("recipes")
    return {**settings, **recipes}


def _description(
    config: CompareConfig, arms: list[Arm], dataset: sources.Dataset, images: dict[str, list[int]]
) -> dict[str, Any]:
    """What the report says about the protocol."""
    return {
        "data": dataset.describe(),
        "source": config.data,
        "image_size": config.image_size,
        "data_fingerprint": dataset.fingerprint,
        "classes": list(dataset.classes),
        "backbones": {arm.label: configuration.to_dict(arm.backbone) for arm in arms},
        "labels": list(config.labels),
        "images": images,
        "num_test": len(dataset.splits["test"]),
        "num_pool": len(dataset.pool),
        "seeds": list(config.seeds),
        "pretrain_seeds": config.pretrain_seeds,
        "epochs": {arm.name: arm.recipe.epochs for arm in arms if arm.recipe is not None},
        "plan": configuration.to_dict(config.transfer),
    }


def _warnings(jobs: Sequence[Job], results: Sequence[dict[str, Any]]) -> list[str]:
    """What the report says of pretrainings that collapsed; runs of older versions do not know."""
    return [
        f"The representation of {job.config.output.name} collapsed in step {result['collapsed']['step']}: what "
        "transfer made of it says little about the method. The run's metrics.jsonl has the measured values."
        for job, result in zip(jobs, results, strict=True)
        if result.get("collapsed")
    ]


def main(arguments: Sequence[str], program: str = "ssl-transfer compare") -> None:
    """`compare [flags]`."""
    images, settings, rest = augmentations.take(*configuration.take_config(arguments))
    default, note = augmentations.adapted(CompareConfig(), images), augmentations.HELP
    config = configuration.parse(CompareConfig, settings, rest, program=program, default=default, note=note)
    run(config)


def run(config: CompareConfig) -> None:
    """Compare, then print the table, the answer and where the report lies."""
    from ..output import report

    runtime = runtimes.start(config.mixed_precision)
    output = compare(config, runtime=runtime)
    if runtime.is_main:
        report.show(output)
