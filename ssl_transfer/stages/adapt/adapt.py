"""Adapt to another domain: labelled images of a source, unlabelled images of a target, through the phases of the plan.

Every method runs this stage, source-only and train-on-target too, so that their results share one table. Each
evaluation of a training is a candidate. A criterion without labels of the target chooses among the candidates, and the
target's test images are read once, for the chosen one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ssl_transfer.data import sources
from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.domains import together
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.data.split import splits
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.printable import one_line
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.engine.runs.run_folder import RunFolder
from ssl_transfer.engine.tracking.tracker import Tracker, drop_after
from ssl_transfer.engine.training.gradients import check_accumulation
from ssl_transfer.evaluation.predictions.metrics import classification
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.objectives.baselines import AdaBNConfig
from ssl_transfer.objectives.domain_adaptation import Adaptation, Adapting
from ssl_transfer.stages.common import augmentation_flag as augmentations
from ssl_transfer.stages.common.checkpoint_data import matched
from ssl_transfer.stages.common.command_line import AUGMENTATION, take_method
from ssl_transfer.stages.common.initialization import (
    fingerprint_of,
    image_size_of,
    initial_backbone,
    label_of,
    open_initial_run,
)
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.common.stage_template import (
    VOLATILE_WEIGHTS,
    Prepared,
    Stage,
    log_start,
    run_stage,
    runtime_for,
)
from ssl_transfer.stages.transfer.phases import Training
from ssl_transfer.stages.transfer.plan_training import run_plan
from ssl_transfer.stages.transfer.plans.phase_tree import Phase
from ssl_transfer.stages.transfer.setup import batch_size_of, budgeted, fitted, make_training

from .config import (
    AdaptConfig,
    check,
    check_images,
    labelled_test,
    method_named,
    name_of,
    settings_of,
    target_images,
    without_copies,
)
from .domain_training import DomainTraining, check_norms
from .outputs import describe, logged, write_outputs


def adapt(
    config: AdaptConfig[Any],
    *,
    runtime: Runtime | None = None,
    source: Dataset | None = None,
    target: Dataset | None = None,
    group: str = "adapt",
    title: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Adapt a backbone; resume a stopped run, or return the result of the finished run.

    `source` and `target` are already loaded images of the configuration; by default they are loaded. The other
    arguments are fields of `stage_template.Stage`.

    Returns:
        `method`, `chosen` (a phase's name) and `epoch` in it, `adapted` (whether that phase adapts), `choose`, `phases`
        (for each the `validation` of its best candidate and its cost), `criteria` (for each the candidate that it
        prefers), `source_validation`, `target_test` (metrics; None where the target has no labelled test images),
        `before` and `after` (the start, or the end of a head phase that comes first; and the chosen candidate),
        `training` (values of the batches of the chosen epoch, or of the last where it has not adapted),
        `uses_target_labels`, counts and costs; with `oracle` its `phase`, `epoch`, `target_validation`, `target_test`.
    """
    name, config = name_of(config.method), config.settled()
    check(config, name, ADAPTATIONS[name])
    run = open_initial_run(config)
    config = replace(config, labels=splits.budget_name(config.labels), image_size=image_size_of(config, run))
    runtime, size = runtime_for(config, runtime), image_size_of(config, run)
    source = source or sources.load(config.source, image_size=size, config=config.loading)
    target = target or sources.load(config.target, image_size=size, config=config.loading)
    first, second = together(source, target)
    second = without_copies(config, first, second)
    stage = Stage(
        name="adapt",
        config=config,
        settings=settings_of(config),
        fingerprints={
            "source": first.fingerprint,
            "target": second.fingerprint,
            "init": fingerprint_of(config, run),
        },
        volatile=(*VOLATILE_WEIGHTS, "source", "target"),
        runtime=runtime,
        group=group,
        title=title,
        quiet=quiet,
    )
    return run_stage(stage, lambda: _prepare(stage, config, run, first, second))


def _prepare(stage: Stage, config: AdaptConfig[Any], run: Run | None, source: Dataset, target: Dataset) -> Prepared:
    runtime, name = stage.runtime, name_of(config.method)
    entry = ADAPTATIONS[name]
    backbone, provenance = initial_backbone(config, source, run)
    source, target = (matched(one, run, config.loading) for one in (source, target))
    divided = target_images(config, target)
    check_norms(backbone, entry, name, separate=config.domain_norm == "separate")
    torch.manual_seed(seed_from(config.seed, 1))
    backbone, head = fitted(config, backbone, len(source.classes))
    learned = target if entry.on_target else source
    check_images(config, entry, learned, divided)
    labelled = budgeted(config.labels, config.seed, learned)
    batch_size = batch_size_of(config, config.labels, len(labelled.train), runtime.num_processes)
    training = make_training(config, learned, backbone, head, labelled, batch_size, runtime, quiet=stage.quiet)
    module = _module(config, entry, training)
    around = DomainTraining(
        training,
        entry,
        module,
        target=divided,
        choose=config.choose,
        oracle=config.oracle,
        images=config.method.images if isinstance(config.method, AdaBNConfig) else None,
    )
    training = replace(training, around=around)
    phases = _phases(config, around, len(labelled.train) // batch_size)
    module.begin(adapting=entry.term is not None)
    check_accumulation(module.eval(), config.optimizer.accumulate, runtime)
    spec = backbone.spec
    domains = f"{data_label(config.source)}-{data_label(config.target)}"
    place = f"adapt-{name}-{label_of(config.init)}-{spec.name.replace('/', '-')}-{domains}"
    adapting = _Adaptation(
        stage=stage, config=config, training=training, around=around, phases=phases, provenance=provenance, run=run
    )
    return Prepared(
        output=config.output or Path(f"runs/{place}-{config.labels}{config.plan_label}-seed{config.seed}"),
        introduction=(
            f"{augmentations.introduce(source, config)}\n{target.describe()}\n"
            f"{name} of {spec.label} from {one_line(config.init)}: {len(labelled.train)} labelled images of "
            f"{one_line(learned.source)}, {len(divided.pool)} of the target without labels; "
            f"{len(labelled.validation)} for validation, and {len(divided.held)} of the target without labels, "
            f"chosen by {config.choose}; {runtime.describe()}"
        ),
        work=adapting.work,
        describe=describe,
    )


@dataclass(frozen=True, kw_only=True)
class _Adaptation:
    """A model with its first weights, both domains, and the phases of the plan."""

    stage: Stage
    config: AdaptConfig[Any]
    training: Training
    around: DomainTraining
    phases: tuple[Phase, ...]
    provenance: dict[str, Any]
    """Origin of the initial weights."""
    run: Run | None
    """Run that `init` names."""

    def work(self, folder: RunFolder, tracker: Tracker) -> dict[str, Any]:
        """Train, choose, test and export."""
        training, around, phases, runtime = self.training, self.around, self.phases, self.stage.runtime
        start = around.measure()
        if not training.states(folder.checkpoints, phases[0]).exist():
            log_start(folder, tracker, phases[0].name, runtime, start)
        trained = run_plan(training, phases, tracker=tracker, metrics=folder.metrics, states=folder.checkpoints)
        found = logged(folder.metrics, self.config.choose, around, phases)
        chosen = found["chosen"]
        after = trained.found[chosen]["validation"]
        head_first = len(phases) > 1 and phases[0].trained == "head"
        backbone = training.objective.backbone
        result: dict[str, Any] = {
            "method": name_of(self.config.method),
            "choose": self.config.choose,
            "num_train": len(training.labelled),
            "num_target": len(around.pool),
            "num_validation": len(training.validation),
            "num_held": len(around.held),
            "num_parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            "uses_target_labels": around.adaptation.on_target,
            "phases": trained.found,
            **found,
            "source_validation": after,
            "before": trained.found[phases[0].name]["validation"] if head_first else start,
            "after": after,
            "target_test": None,
        }
        test = labelled_test(around.target)
        if self.config.oracle:
            result["oracle"] = around.oracle_of(test)
        around.module.load_state_dict(trained.weights[chosen])
        logits = around.target_logits(test) if len(test) else None
        if logits is not None:
            result["target_test"] = classification(logits, around.target.labels[test])
            if runtime.is_main:
                drop_after(folder.metrics, "chosen", -1)
            tracker.log({"phase": "chosen", "split": "test", **result["target_test"]})
            tracker.summarize({f"chosen/{metric}": value for metric, value in result["target_test"].items()})
        result |= trained.cost
        if runtime.is_main:
            origin = {
                "init": self.provenance,
                "settings": self.stage.settings,
                "method": result["method"],
                "data_fingerprint": training.dataset.fingerprint,
                "target_fingerprint": around.target.fingerprint,
            }
            tested = None if logits is None else (test, logits)
            write_outputs(around, folder.path, self.config, origin, self.run, tested)
        return result


def _module(config: AdaptConfig[Any], entry: Adaptation, training: Training) -> Adapting:
    """Build the method's objective around the calibrated supervised one."""
    supervised = training.objective
    (image,) = training.dataset.batches([training.labelled[:1]], training.runtime.device)
    bare = Adapting(supervised, None).eval()
    num_classes = len(training.dataset.classes)
    with torch.no_grad():
        width = bare.outputs(image).shape[1] - num_classes
    term = None if entry.term is None else entry.term(supervised, width, num_classes, config.method)
    norm = "estimated" if entry.estimates_statistics else config.domain_norm
    return Adapting(supervised, term, norm=norm).to(training.runtime.device)


def _phases(config: AdaptConfig[Any], around: DomainTraining, steps: int) -> tuple[Phase, ...]:
    """Return the phases of the plan; an epoch of an adapting phase is a pass over the longer domain."""
    alone = config.phases(steps)
    if around.adaptation.term is None:
        return alone
    both = config.phases(around.loader().steps_per_epoch)
    return tuple(second if around.adapts(first) else first for first, second in zip(alone, both, strict=True))


def main(arguments: Sequence[str], program: str = "ssl-transfer adapt") -> None:
    """Run `adapt METHOD [flags]`; the --config file may name the method as `method: {name: ...}`."""
    usage = (
        f"usage: {program} METHOD --source DATA --target DATA [--help] [flags]\n\n"
        "Train on labelled images of one domain for another. Methods:"
    )
    summaries = {key: entry.summary for key, entry in ADAPTATIONS.items()}
    name, images, settings, rest = take_method(arguments, usage, summaries)
    entry = method_named(name)
    kind: Any = AdaptConfig[entry.config]  # type: ignore[name-defined]
    default = augmentations.adapted(kind(method=entry.config()), images)
    adapt(configuration.parse(kind, settings, rest, program=f"{program} {name}", default=default, extra=[AUGMENTATION]))
