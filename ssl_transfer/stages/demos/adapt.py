"""Demonstrate adaptation (`demo adapt`): all methods, from digits to digits over photographs, over several seeds.

Nothing is downloaded: the digits are scikit-learn's, the photographs scikit-image's. All methods have the same plan,
seeds, labelled images and settings of the recipe. In each run a criterion that needs no label of the target chooses.
The target's validation labels are read too, for the marked upper bound.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ssl_transfer.data import sources
from ssl_transfer.data.domains import together
from ssl_transfer.data.sources import LoadingConfig
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.errors import FailedRunsError, InputError
from ssl_transfer.engine.launch.jobs import Failure
from ssl_transfer.engine.launch.local import workers
from ssl_transfer.engine.runs.run_folder import RunFolder, check_held
from ssl_transfer.engine.tracking.tracker import TrackingConfig
from ssl_transfer.evaluation.comparison.adaptation_table import SOURCE_ONLY, AdaptedRun, Point, leader
from ssl_transfer.evaluation.comparison.tables import run_checks
from ssl_transfer.evaluation.features.extract import extract
from ssl_transfer.evaluation.features.tsne import LEAST_IMAGES, embed
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.objectives.baselines import AdaBNConfig
from ssl_transfer.objectives.dann import CDANConfig, DANNConfig
from ssl_transfer.objectives.mmd_coral import CORALConfig, MMDConfig
from ssl_transfer.objectives.self_training import SelfTrainingConfig
from ssl_transfer.stages.adapt.adapt import adapt
from ssl_transfer.stages.adapt.config import AdaptConfig, method_named
from ssl_transfer.stages.adapt.domain_training import Choose
from ssl_transfer.stages.common import dry_run
from ssl_transfer.stages.common import run as runs
from ssl_transfer.stages.common.run_config import VOLATILE, check_positive
from ssl_transfer.stages.compare.grid import failures_of, listed
from ssl_transfer.stages.transfer.plans.recipe import TransferRecipe

SETTINGS = Path(__file__).with_name("adapt.yaml")
MAPPED = 150
"""Validation images of each domain in the map of features."""


@dataclass(frozen=True, kw_only=True)
class AdaptDemoConfig:
    """Compare ways to adapt, over several seeds."""

    source: str = "digits"
    """Labelled images."""
    target: str = "blended-digits"
    """Images to adapt to. Labels of its validation images are needed for the upper bound, of its test images for the
    table."""
    methods: tuple[str, ...] = tuple(ADAPTATIONS)
    """Methods to run; source-only is added, as the baseline of all others."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of each method a seed."""
    labels: str = "all"
    """Labelled images per class of the source, a share of each class, or all."""
    image_size: int = 24
    """Pixels a side of the model's input."""
    init: str = "scratch"
    """Initial weights of all methods: scratch, imagenet, timm:NAME or the folder of a run."""
    imagenet_weights: Path | None = None
    """ImageNet weights from a file instead of timm's hub."""
    backbone: BackboneConfig = BackboneConfig()
    """Network of all methods."""
    recipe: TransferRecipe = TransferRecipe()
    """Plan and its settings, the same for all methods."""
    choose: Choose = "source"
    """Criterion that chooses among the candidates of each run."""
    adabn: AdaBNConfig = AdaBNConfig()
    """Settings of adabn."""
    dann: DANNConfig = DANNConfig()
    """Settings of dann."""
    cdan: CDANConfig = CDANConfig()
    """Settings of cdan."""
    mmd: MMDConfig = MMDConfig()
    """Settings of mmd."""
    coral: CORALConfig = CORALConfig()
    """Settings of coral."""
    self_training: SelfTrainingConfig = SelfTrainingConfig()
    """Settings of self-training."""
    jobs: int = 2
    """Concurrent runs."""
    output: Path = Path("runs/demo-adapt")
    """Folder of the tables, the report and the runs. A second start runs only missing runs."""
    fresh: bool = False
    """Move the results of an earlier start aside, and start over."""
    retry: bool = False
    """Repeat runs that failed before."""
    dry_run: bool = False
    """Train nothing: print the planned work, with counts and an estimate of the time from a few steps. Only decoded
    pixels in the cache are written."""
    mixed_precision: runtimes.MixedPrecision = "no"
    """Train under autocast: bf16 or fp16."""
    loading: LoadingConfig = LoadingConfig()
    """Settings for reading, storing and splitting images."""
    tracking: TrackingConfig = TrackingConfig()
    """Destinations of metrics."""


@dataclass(frozen=True, kw_only=True)
class AdaptJob:
    """One run; a plain value, so that it can be sent to another process."""

    config: AdaptConfig[Any]
    folder: Path
    """Folder of the run."""
    after: Path | None = None

    @property
    def kind(self) -> str:
        """Method, shared by runs that differ in their seed alone."""
        return self.folder.parent.name

    @property
    def title(self) -> str:
        """Name in its group."""
        return f"{self.kind} seed {self.config.seed}"

    def elsewhere(self, place: Path, start: Path | None) -> "AdaptJob":
        """Copy the run to another folder, without trackers; it starts from no other run."""
        return replace(
            self, config=replace(self.config, output=place, tracking=TrackingConfig()), folder=place, after=start
        )

    def check(self, result: dict[str, Any]) -> None:
        """Raise InputError if the result holds an impossible number."""
        run_checks.check_adaptation(self.folder, result)

    def __call__(self) -> dict[str, Any]:
        """Run in this process."""
        return adapt(self.config, group=self.folder.parents[2].name, title=self.title, quiet=True)


def compare_adaptations(config: AdaptDemoConfig) -> Path:
    """Run the missing runs, then write `results.csv`, `report.md`, `report.html` and the figures.

    Returns:
        The folder.

    Raises:
        InputError: an unknown method; no seeds; a run with a non-finite or impossible number.
        FailedRunsError: a run failed; the tables hold the finished ones.
    """
    methods = _check(config)
    runtime = runtimes.start(config.mixed_precision)
    if runtime.num_processes > 1:
        raise InputError("demo adapt runs each run in one process: start it without a launcher, with --jobs.")
    source, target = _load(config)
    jobs = {(name, seed): _job(config, name, seed) for name in methods for seed in config.seeds}
    volatile = (*VOLATILE, "methods", "seeds", "retry")
    identity = {"source": source.fingerprint, "target": target.fingerprint}
    settings = configuration.to_dict(config)
    introduction = (
        f"{source.describe()}\n{target.describe()}\n{', '.join(methods)}: {len(jobs)} runs; {runtime.describe()}"
    )
    if config.dry_run:
        if not config.fresh:
            check_held(config.output, settings, identity, volatile)
        dry_run.several(
            config.output, list(jobs.values()), introduction, runtime, at_a_time=config.jobs, fresh=config.fresh
        )
    with RunFolder(config.output, settings, runtime, identity=identity, fresh=config.fresh, volatile=volatile):
        runtime.say(*introduction.split("\n"))
        with workers(config.jobs, runtime) as runner:
            outcomes = runner.run(list(jobs.values()), retry=config.retry)
        failures = failures_of(outcomes)
        runs = [
            AdaptedRun(method=name, seed=seed, result=outcome)
            for (name, seed), job in jobs.items()
            if not isinstance(outcome := outcomes[job.folder], Failure)
        ]
        for run in runs:
            run_checks.check_adaptation(jobs[run.method, run.seed].folder, run.result)
        finished = {run.method for run in runs}
        if SOURCE_ONLY not in finished or len(finished) < 2:
            raise FailedRunsError("Without source-only and another method there is no table.", *listed(failures))
        failed = {(name, str(seed)) for (name, seed), job in jobs.items() if isinstance(outcomes[job.folder], Failure)}
        held = _held(config.output / "results.csv")
        if lost := len(failed if held is None else failed & held):
            kept = f"{config.output}: the tables stay as they are: {counted(lost, 'run')} in them failed at this start."
            raise FailedRunsError(kept, *listed(failures))
        if failures:
            runtime.warn(f"{counted(len(failures), 'run')} of {len(jobs)} failed; the tables hold what finished.")
        shown = (SOURCE_ONLY, leader(runs))
        maps = {
            run.method: _map(jobs[run.method, run.seed].folder, source, target, runtime)
            for run in runs
            if run.method in shown and run.seed == config.seeds[0]
        }
        _report(config, runs, maps, failures)
        if failures:
            raise FailedRunsError(*listed(failures))
    return config.output


def _check(config: AdaptDemoConfig) -> tuple[str, ...]:
    """Check the settings and return the methods, source-only first."""
    check_positive(jobs=config.jobs)
    methods = tuple(dict.fromkeys((SOURCE_ONLY, *config.methods)))
    for name in methods:
        method_named(name)
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise InputError("--seeds: at least one, each only once.")
    return methods


def _load(config: AdaptDemoConfig) -> tuple[sources.Dataset, sources.Dataset]:
    """Load source and target; validation and test images of the target must have labels."""
    source, target = (
        sources.load(name, image_size=config.image_size, config=config.loading)
        for name in (config.source, config.target)
    )
    source, target = together(source, target)
    for part in ("validation", "test"):
        if not len(target.splits[part]) or not bool((target.labels[target.splits[part]] >= 0).all()):
            raise InputError(
                f"--target {config.target}: the table holds what methods get right, and its {part} images have no "
                "labels. Give such, or adapt with one method: ssl-transfer adapt METHOD."
            )
    return source, target


def _report(
    config: AdaptDemoConfig,
    runs: Sequence[AdaptedRun],
    maps: Mapping[str, Sequence[Point]],
    failures: Sequence[Mapping[str, Any]],
) -> None:
    from ssl_transfer.reports import adaptation as report

    title = f"{config.source} to {config.target}"
    report.write(
        config.output,
        runs,
        maps,
        title=title,
        backbone=_network(config),
        labels=config.labels,
        choose=config.choose,
        failures=failures,
    )
    report.show(config.output, runs, title=title)


def _network(config: AdaptDemoConfig) -> str:
    """Name the network, and its weights where all runs share them."""
    if config.init == "scratch":
        return config.backbone.name
    return f"{config.backbone.name} from {config.init} (one network, which the intervals do not vary)"


def _held(table: Path) -> set[tuple[str, str]] | None:
    """Read the method and the seed of each run in the table of an earlier start; None where it is damaged."""
    if not table.is_file():
        return set()
    try:
        with open(table, encoding="utf-8", newline="") as file:
            return {(row["method"], row["seed"]) for row in csv.DictReader(file)}
    except (ValueError, KeyError, csv.Error):
        return None


def _job(config: AdaptDemoConfig, name: str, seed: int) -> AdaptJob:
    """Build one run with its settings."""
    folder = config.output / "runs" / name / f"seed{seed}"
    kind = ADAPTATIONS[name].config
    own = {
        type(one): one
        for one in (config.adabn, config.dann, config.cdan, config.mmd, config.coral, config.self_training)
    }
    shared = ("source", "target", "labels", "image_size", "init", "imagenet_weights", "backbone", "choose")
    filled = AdaptConfig(
        method=own[kind] if kind in own else kind(),
        **{field: getattr(config, field) for field in (*shared, "mixed_precision", "loading", "tracking")},
        seed=seed,
        oracle=True,
        output=folder,
    )
    return AdaptJob(config=replace(filled, **configuration.shallow(config.recipe)), folder=folder)


def _map(folder: Path, source: sources.Dataset, target: sources.Dataset, runtime: runtimes.Runtime) -> list[Point]:
    """Embed a model's features of validation images of both domains in the plane."""
    backbone = runs.Run(folder).load_backbone()
    backbone.to(runtime.device)
    chosen = [one.splits["validation"][:MAPPED] for one in (source, target)]
    features = [extract(backbone, one, index, runtime) for one, index in zip((source, target), chosen, strict=True)]
    if sum(map(len, chosen)) < LEAST_IMAGES:
        return []
    places = embed(torch.cat(features), seed=0)
    names = [
        (part, one.classes[label] if label >= 0 else "")
        for part, one, index in (("source", source, chosen[0]), ("target", target, chosen[1]))
        for label in one.labels[index].tolist()
    ]
    return [Point(domain=part, label=label, x=x, y=y) for (part, label), (x, y) in zip(names, places, strict=True)]


def main(arguments: Sequence[str], program: str = "ssl-transfer demo adapt") -> None:
    """Run `demo adapt [flags]`, with the settings of `adapt.yaml` as defaults."""
    settings, rest = configuration.take_config(arguments)
    settings = configuration.merge(configuration.read_yaml(SETTINGS), settings)
    compare_adaptations(
        configuration.parse(AdaptDemoConfig, settings, rest, program=program, default=AdaptDemoConfig())
    )
