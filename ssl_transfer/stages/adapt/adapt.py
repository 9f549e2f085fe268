"""Adapt to another domain: labelled images of a source, unlabelled ones of a target, through the phases of the plan.

Every method goes the same way, source-only and train-on-target too, so that their results stand in one table. Each
evaluation of a training is a candidate; a criterion that needs no label of the target chooses among them, and the
target's test images are read once, for the one that is chosen.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ssl_transfer.data import sources
from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.domains import together
from ssl_transfer.data.sources.label import data_label
from ssl_transfer.data.split import splits
from ssl_transfer.engine import config as configuration
from ssl_transfer.engine.distributed import runtime as runtimes
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.engine.runs.run_folder import RunFolder
from ssl_transfer.engine.tracking.tracker import Tracker, drop_after
from ssl_transfer.engine.training.gradients import check_accumulation
from ssl_transfer.evaluation.predictions.metrics import classification
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.objectives.baselines import AdaBNConfig
from ssl_transfer.objectives.domain_adaptation import Adaptation, Adapting
from ssl_transfer.stages.common import augmentation_flag as augmentations
from ssl_transfer.stages.common import run_stage
from ssl_transfer.stages.common.checkpoint_data import matched
from ssl_transfer.stages.common.command_line import AUGMENTATION, take_method
from ssl_transfer.stages.common.initialization import fingerprint_of, initial_backbone, is_run, label_of
from ssl_transfer.stages.transfer.phases import Training
from ssl_transfer.stages.transfer.plan import Phase
from ssl_transfer.stages.transfer.setup import batch_size_of, fitted, make_training
from ssl_transfer.stages.transfer.transfer import budgeted
from ssl_transfer.stages.transfer.tune import run_plan

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
from .outputs import describe, leave, logged

VOLATILE_DATA = (*run_stage.VOLATILE_WEIGHTS, "source", "target")


def adapt(
    config: AdaptConfig[Any],
    *,
    runtime: runtimes.Runtime | None = None,
    source: Dataset | None = None,
    target: Dataset | None = None,
    group: str = "adapt",
    title: str = "",
    quiet: bool = False,
) -> dict[str, Any]:
    """Run it, or go on with it, or return the result of the finished run.

    Args:
        config: see its fields.
        runtime: shared with other stages of one process; by default a new one.
        source: already loaded images of `config.source`; by default they are loaded.
        target: the same of `config.target`.
        group: wandb's group.
        title: wandb's name of the run; by default that of its folder.
        quiet: say nothing but the progress bar, for whoever runs many.

    Returns:
        `method`, `chosen` (a phase's name) and `epoch` in it, `adapted` (whether that phase adapts), `choose`, `phases`
        (for each the `validation` of its best candidate and its cost), `criteria` (for each the candidate that it
        prefers), `source_validation`, `target_test` (metrics; None where the target has no labelled test images),
        `before` and `after` (the start, or the end of a head phase that comes first; and the chosen candidate),
        `training` (what was logged of the batches of the chosen epoch, or of the last where it has not adapted),
        `uses_target_labels`, counts and costs; with `oracle` its `phase`, `epoch`, `target_validation`, `target_test`.
    """
    name = name_of(config.method)
    entry = ADAPTATIONS[name]
    check(config, name, entry)
    config = replace(config, labels=splits.budget_name(config.labels), image_size=config.size)
    runtime = runtime or runtimes.start(config.mixed_precision, deterministic=config.deterministic)
    source = source or sources.load(config.source, image_size=config.size, config=config.loading)
    target = target or sources.load(config.target, image_size=config.size, config=config.loading)
    source, target = together(source, target)
    target = without_copies(config, source, target)
    settings = settings_of(config)
    fingerprints = {"source": source.fingerprint, "target": target.fingerprint, "init": fingerprint_of(config)}
    if quiet and (result := run_stage.finished(config, settings, fingerprints, runtime, VOLATILE_DATA)) is not None:
        return result
    backbone, provenance = initial_backbone(config, source)
    if is_run(config.init):
        source, target = (matched(one, backbone.spec, Path(config.init), config.loading) for one in (source, target))
    pool, held = target_images(config, target)
    check_norms(backbone, entry, name, separate=config.domain_norm == "separate")
    torch.manual_seed(seed_from(config.seed, 1))
    backbone, head = fitted(config, backbone, len(source.classes))
    learned = target if entry.on_target else source
    check_images(config, entry, learned, target, held)
    labelled, validation = budgeted(config.labels, config.seed, learned)
    batch_size = batch_size_of(config, config.labels, len(labelled), runtime.num_processes)
    training = make_training(config, learned, backbone, head, labelled, validation, batch_size, runtime, quiet=quiet)
    module = _module(config, entry, training)
    around = DomainTraining(
        training,
        entry,
        module,
        target=target,
        pool=pool,
        held=held,
        choose=config.choose,
        oracle=config.oracle,
        images=config.method.images if isinstance(config.method, AdaBNConfig) else None,
    )
    training = replace(training, around=around)
    phases = _phases(config, around, len(labelled) // batch_size)
    module.begin(adapting=entry.term is not None)
    check_accumulation(module.eval(), config.optimizer.accumulate, runtime)
    output = config.output or Path(
        f"runs/adapt-{name}-{label_of(config.init)}-{backbone.spec.name.replace('/', '-')}-{data_label(config.source)}"
        f"-{data_label(config.target)}-{config.labels}{config.plan_label}-seed{config.seed}"
    )
    introduction = (
        f"{augmentations.introduce(source, config)}\n{target.describe()}\n"
        f"{name} of {backbone.spec.label} from {config.init}: {len(labelled)} labelled images of "
        f"{learned.source}, {len(pool)} of the target without labels; {len(validation)} for validation, and "
        f"{len(held)} of the target without labels, chosen by {config.choose}; {runtime.describe()}"
    )
    identity = run_stage.Identity(
        stage="adapt",
        config=config,
        settings=settings,
        output=output,
        fingerprints=fingerprints,
        volatile=VOLATILE_DATA,
        introduction=introduction,
        group=group,
        title=title,
    )

    def work(folder: RunFolder, tracker: Tracker) -> dict[str, Any]:
        start = around.measure()
        if not training.states(folder.checkpoints, phases[0]).exist():
            run_stage.log_start(folder, tracker, phases[0].name, runtime, start)
        trained = run_plan(training, phases, tracker=tracker, metrics=folder.metrics, states=folder.checkpoints)
        found = logged(folder.metrics, config.choose, around, phases)
        chosen = found["chosen"]
        after = trained.found[chosen]["validation"]
        head_first = len(phases) > 1 and phases[0].trained == "head"
        result: dict[str, Any] = {
            "method": name,
            "choose": config.choose,
            "num_train": len(labelled),
            "num_target": len(pool),
            "num_validation": len(validation),
            "num_held": len(held),
            "num_parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            "uses_target_labels": entry.on_target,
            "phases": trained.found,
            **found,
            "source_validation": after,
            "before": trained.found[phases[0].name]["validation"] if head_first else start,
            "after": after,
            "target_test": None,
        }
        test = labelled_test(target)
        if config.oracle:
            result["oracle"] = around.oracle_of(test)
        module.load_state_dict(trained.weights[chosen])
        logits = None
        if len(test):
            logits = around.target_logits(test)
            result["target_test"] = classification(logits, target.labels[test])
            if runtime.is_main:
                drop_after(folder.metrics, "chosen", -1)
            tracker.log({"phase": "chosen", "split": "test", **result["target_test"]})
            tracker.summarize({f"chosen/{metric}": value for metric, value in result["target_test"].items()})
        result |= trained.cost
        if runtime.is_main:
            data = {"data_fingerprint": learned.fingerprint, "target_fingerprint": target.fingerprint}
            origin = {"init": provenance, "settings": settings, "method": name, **data}
            leave(around, folder.path, config, origin, test, logits)
        return result

    return run_stage.within(identity, runtime, work, describe, quiet=quiet)


def _module(config: AdaptConfig[Any], entry: Adaptation, training: Training) -> Adapting:
    """The method's objective around the supervised one, which is calibrated by now."""
    supervised = training.objective
    (image,) = training.dataset.batches([training.labelled[:1]], training.runtime.device)
    bare = Adapting(supervised, None).eval()
    num_classes = len(training.dataset.classes)
    with torch.no_grad():
        width = bare.outputs(image).shape[1] - num_classes
    term = entry.build(supervised, width, num_classes, config.method)
    norm = "estimated" if entry.estimates_statistics else config.domain_norm
    return Adapting(supervised, term, norm=norm).to(training.runtime.device)


def _phases(config: AdaptConfig[Any], around: DomainTraining, steps: int) -> tuple[Phase, ...]:
    """The phases of the plan: an epoch of those that adapt is a pass over the longer domain."""
    alone = config.phases(steps)
    if around.adaptation.term is None:
        return alone
    both = config.phases(around.loader().steps_per_epoch)
    return tuple(second if around.adapts(first) else first for first, second in zip(alone, both, strict=True))


def main(arguments: Sequence[str], program: str = "ssl-transfer adapt") -> None:
    """`adapt METHOD [flags]`; the method may also stand in the --config file as `method: {name: ...}`."""
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
