"""Demonstrate distillation: pretrain, transfer, distil into a small model, on images that need no download.

Four arms on the same labelled images: the student alone (from scratch), distilled on the labelled images, distilled on
the whole pool, and the teacher, a backbone that SimCLR pretrained on the pool and transfer fine-tuned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssl_transfer.data import sources
from ssl_transfer.data.split import splits
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.errors import FailedRunsError, InputError
from ssl_transfer.engine.launch.jobs import Outcome
from ssl_transfer.engine.launch.local import workers
from ssl_transfer.engine.runs.run_folder import RunFolder, check_held
from ssl_transfer.evaluation.comparison import write_tables
from ssl_transfer.evaluation.comparison.results import Results, Row
from ssl_transfer.evaluation.comparison.tables import run_checks
from ssl_transfer.evaluation.features.throughput import images_per_second
from ssl_transfer.methods.simclr import SimCLRConfig
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.models.heads import make_head
from ssl_transfer.objectives.distillation import DistillationConfig
from ssl_transfer.stages.common import dry_run
from ssl_transfer.stages.common.initialization import Initial, initial_backbone, open_initial_run
from ssl_transfer.stages.common.run_config import VOLATILE, RunConfig, check_positive
from ssl_transfer.stages.compare.config import pretraining_of
from ssl_transfer.stages.compare.grid import Job, failures_of, listed, load_once
from ssl_transfer.stages.distill.config import POOL_SHARE, DistillConfig
from ssl_transfer.stages.distill.distill import distill
from ssl_transfer.stages.pretrain import config as pretraining
from ssl_transfer.stages.pretrain.pretrain import pretrain
from ssl_transfer.stages.transfer.config import for_arm
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe
from ssl_transfer.stages.transfer.transfer import transfer

SETTINGS = Path(__file__).with_name("distill.yaml")
ALONE, ON_LABELS, ON_POOL, TEACHER = "student alone", "taught on the labels", "taught on the pool", "teacher"
SPEED_ROUNDS = 3
ARMS = (ALONE, ON_LABELS, ON_POOL, TEACHER)


def _simclr() -> pretraining.Recipe[SimCLRConfig]:
    return pretraining.default_recipe("simclr")


@dataclass(frozen=True, kw_only=True)
class DistillDemoConfig(RunConfig):
    """Train a small student with and without a teacher: accuracy with intervals, parameters, images a second."""

    image_size: int = 24
    """Pixels a side of the input of all models."""
    labels: str = "5"
    """Labelled images per class, a share of each class, or all."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the runs. One seed draws the same labelled images for every arm."""
    pretrain_seeds: int | None = None
    """Number of pretrained backbones; the teacher of seed s starts from backbone s modulo this number. None: one for
    each seed, so that the intervals cover the pretraining."""
    jobs: int = 1
    """Concurrent runs on this machine."""
    retry: bool = False
    """Repeat runs that failed."""
    simclr: pretraining.Recipe[SimCLRConfig] = field(default_factory=_simclr)
    """Pretraining settings of the teacher's backbone, and its architecture."""
    student: BackboneConfig = field(default_factory=BackboneConfig)
    """Network of the student."""
    teacher: TransferRecipe = TransferRecipe()
    """Transfer settings of the teacher."""
    alone: TransferRecipe = TransferRecipe()
    """Training settings of the student without a teacher."""
    on_labels: TransferRecipe = TransferRecipe()
    """Training settings of the student with a teacher, on the labelled images."""
    on_pool: TransferRecipe = TransferRecipe()
    """Training settings of the student with a teacher, on the labelled images and the pool."""
    distillation: DistillationConfig = DistillationConfig()
    """Settings of the distillation loss."""
    pool_share: float = POOL_SHARE
    """Share of each batch that comes from the pool."""


def demo(config: DistillDemoConfig, *, runtime: runtimes.Runtime | None = None) -> Path:
    """Run the missing runs, then write the tables and the report.

    Returns:
        The folder with `results.csv`, `curves.csv`, `summary.csv`, `report.md` and its figure, and the runs.

    Raises:
        FailedRunsError: a run failed.
    """
    from ssl_transfer.reports import distillation as page

    _check(config)
    config = replace(config, labels=splits.budget_name(config.labels))
    runtime = runtime or runtimes.start(config.mixed_precision, deterministic=config.deterministic)
    output = config.output or Path("runs/demo-distill")
    dataset = load_once(config.data, config.image_size, config.loading)
    cells, pretrain_jobs = _jobs(config, output)
    settings, identity = configuration.to_dict(config), {"data": dataset.fingerprint}
    volatile = (*VOLATILE, "seeds", "retry")
    jobs = [*pretrain_jobs, *(job for _, _, job in cells)]
    introduction = f"{dataset.describe()}\n{len(jobs)} runs for {', '.join(ARMS)}; {runtime.describe()}"
    if config.dry_run:
        if not config.fresh:
            check_held(output, settings, identity, volatile)
        dry_run.several(output, jobs, introduction, runtime, at_a_time=config.jobs, fresh=config.fresh)
    with RunFolder(output, settings, runtime, identity=identity, fresh=config.fresh, volatile=volatile) as folder:
        runtime.say(*introduction.split("\n"))
        with workers(config.jobs, runtime) as runner:
            outcomes = runner.run(jobs, retry=config.retry)
        if failures := failures_of(outcomes):
            raise FailedRunsError(*listed(failures))
        if runtime.is_main:
            speeds = _speeds(config, dataset, pretrain_jobs[0].folder, runtime)
            folder.write("speeds.json", speeds)
            results, facts = _collect(config, cells, outcomes, runtime), _facts(config, dataset, outcomes, cells)
            page.write(output, results, speeds, arms=ARMS, facts=facts)
            runtime.say(*(output / "report.md").read_text(encoding="utf-8").split("\n"))
        runtime.wait()
    return output


def _check(config: DistillDemoConfig) -> None:
    """Raise InputError for bad settings."""
    check_positive(jobs=config.jobs)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise InputError(f"--seeds {' '.join(map(str, config.seeds))}: at least one, and each only once.")
    if config.pretrain_seeds is None:
        return
    check_positive(pretrain_seeds=config.pretrain_seeds)
    if config.pretrain_seeds > len(config.seeds):
        raise InputError(
            f"--pretrain-seeds {config.pretrain_seeds}: more than the {len(config.seeds)} --seeds that would use them."
        )


def _jobs(config: DistillDemoConfig, output: Path) -> tuple[list[tuple[str, int, Job]], list[Job]]:
    """Build the runs of each arm and seed, and the pretrainings that the teachers start from."""
    shared = {
        name: getattr(config, name)
        for name in ("data", "mixed_precision", "deterministic", "loading", "tracking", "checkpoints")
    }

    def job(stage: Any, settings: Any, kind: str, after: Path | None = None) -> Job:
        title = f"{kind} {settings.seed}"
        return Job(
            stage=stage, config=settings, group=output.name, kind=kind, title=title, after=after, retry=config.retry
        )

    pretrained = {
        seed: output / "pretrain" / f"seed{seed}"
        for seed in sorted({pretraining_of(seed, config.pretrain_seeds) for seed in config.seeds})
    }
    before = []
    for seed, place in pretrained.items():
        first = pretraining.PretrainConfig(
            **shared, **configuration.shallow(config.simclr), image_size=config.image_size, seed=seed, output=place
        )
        before.append(job(pretrain, first, "pretraining"))
    cells = []
    for seed in config.seeds:
        start = pretrained[pretraining_of(seed, config.pretrain_seeds)]
        taught_by = output / TEACHER / f"seed{seed}"
        common = {**shared, "image_size": config.image_size, "labels": config.labels, "seed": seed}
        student = {**common, "backbone": config.student}
        teacher = for_arm(config.teacher, **common, init=str(start), output=taught_by)
        cells.append((TEACHER, seed, job(transfer, teacher, TEACHER, start)))
        place = output / "student-alone" / f"seed{seed}"
        alone = for_arm(config.alone, **student, output=place)
        cells.append((ALONE, seed, job(transfer, alone, ALONE)))
        taught: dict[str, Any] = {**student, "teacher": str(taught_by), "distillation": config.distillation}
        pooled: dict[str, Any] = {**taught, "pool": True, "pool_share": config.pool_share}
        for arm, own, recipe in ((ON_LABELS, taught, config.on_labels), (ON_POOL, pooled, config.on_pool)):
            place = output / arm.replace(" ", "-") / f"seed{seed}"
            settings = DistillConfig(**own, output=place, **configuration.shallow(recipe))
            cells.append((arm, seed, job(distill, settings, arm, taught_by)))
    # In the order of the table.
    return sorted(cells, key=lambda cell: cell[0] != TEACHER), before


def _collect(
    config: DistillDemoConfig,
    cells: Sequence[tuple[str, int, Job]],
    outcomes: Mapping[Path, Outcome],
    runtime: runtimes.Runtime,
) -> Results:
    """Collect rows and curves of all runs.

    Raises:
        InputError: a run holds a non-finite or impossible number.
    """
    rows: list[Row] = []
    curves: list[dict[str, Any]] = []
    for arm, seed, job in cells:
        name = (config.simclr.backbone if arm == TEACHER else config.student).name
        key = {"arm": arm, "backbone": name, "labels": config.labels, "seed": seed}
        result: Any = outcomes[job.folder]
        cost = None if arm != TEACHER else _result(outcomes, job.after)
        if cost is not None and job.after is not None:
            run_checks.check_pretraining(job.after, cost)
        run_checks.check_result(job.folder, result)
        rows += write_tables.rows_of(key, result, cost)
        log = write_tables.curves_of(key, job.folder / "metrics.jsonl", result.get("path"))
        lines, dropped = run_checks.check_curves(job.folder, log)
        curves += lines
        for warning in dropped:
            runtime.warn(f"warning: {warning}")
    pretrainings = [pretraining_of(seed, config.pretrain_seeds) for seed in config.seeds]
    return Results(rows, curves=curves, description={"seeds": list(config.seeds), "pretrainings": pretrainings})


def _result(outcomes: Mapping[Path, Outcome], folder: Path | None) -> dict[str, Any] | None:
    found = None if folder is None else outcomes[folder]
    return found if isinstance(found, dict) else None


def _speeds(
    config: DistillDemoConfig, dataset: sources.Dataset, teacher: Path, runtime: runtimes.Runtime
) -> dict[str, float]:
    """Measure images per second of student and teacher; their weights do not matter.

    `teacher` is the folder of its pretraining.
    """
    starts = {
        "student": Initial(image_size=config.image_size, backbone=config.student),
        "teacher": Initial(init=str(teacher)),
    }
    heads = {"student": config.alone.head, "teacher": config.teacher.head}
    models = {}
    for name, start in starts.items():
        backbone, _ = initial_backbone(start, dataset, open_initial_run(start))
        models[name] = backbone, make_head(heads[name], backbone, len(dataset.classes))
    # In turns, as the load of the machine varies.
    rounds = [
        {name: images_per_second(*model, runtime.device) for name, model in models.items()} for _ in range(SPEED_ROUNDS)
    ]
    return {name: max(one[name] for one in rounds) for name in models}


def _facts(
    config: DistillDemoConfig,
    dataset: sources.Dataset,
    outcomes: Mapping[Path, Outcome],
    cells: Sequence[tuple[str, int, Job]],
) -> dict[str, Any]:
    """Return the facts for the text around the table."""
    result: Any = next(outcomes[job.folder] for arm, _, job in cells if arm == ON_POOL)
    return {
        "data": dataset.describe(),
        "labels": config.labels,
        "num_train": result["num_train"],
        "num_validation": result["num_validation"],
        "num_pool": result["num_pool"],
        "num_test": len(dataset.splits["test"]),
        "num_seeds": len(config.seeds),
        "pretrain_seeds": len({pretraining_of(seed, config.pretrain_seeds) for seed in config.seeds}),
        "model": str(next(job.folder for arm, _, job in cells if arm == ON_POOL)),
    }


def main(arguments: Sequence[str], program: str = "ssl-transfer demo distill") -> None:
    """Run `demo distill [flags]`."""
    settings, rest = configuration.take_config(arguments)
    settings = configuration.merge(configuration.read_yaml(SETTINGS), settings)
    demo(configuration.parse(DistillDemoConfig, settings, rest, program=program, default=DistillDemoConfig()))
