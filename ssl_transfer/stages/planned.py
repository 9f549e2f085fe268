"""A run that takes a model through a plan, from its folder to what it leaves: transfer and distillation are such runs.

Validation chooses between the phases, by accuracy and among equals by log-loss; then the test images are read, once,
for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Dataset
from ..engine.checkpoint import save_array
from ..engine.folder import RunFolder
from ..engine.runtime import Runtime
from ..engine.tracking import Tracker, TrackingConfig, drop_after
from ..evaluation.metrics import class_logits, classification
from ..models.backbones import Backbone
from ..models.heads import Head, HeadConfig
from ..objectives.supervised import Supervised
from .phases import Training, measure_start
from .plan import Phase, TransferRecipe
from .run import VOLATILE
from .transferred import leave_curves, leave_evaluation, leave_hits, leave_model
from .tune import drop_states, replay, run_plan, summary, tune

PREDICTED = "predicted.npy"
"""In a run's folder: the classes that the chosen model gave the test images, (N,) int32."""
VOLATILE_WEIGHTS = ("init", "imagenet_weights")
"""Settings that say where weights lie: the same may lie elsewhere, and a fingerprint tells which they are."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a run is: what tells it from others, what is said of it, what its export remembers."""

    stage: str
    """transfer or distill."""
    settings: dict[str, Any]
    output: Path
    fingerprints: dict[str, str]
    """Of data and weights, by name."""
    volatile: tuple[str, ...] = VOLATILE_WEIGHTS
    """Settings that may change between two starts, beside those of every stage."""
    introduction: str
    provenance: dict[str, Any]
    """Of the weights that it starts from and, where there is one, of the teacher."""
    seen: np.ndarray | None
    """The images that the exported weights know, as in `Dataset.contents`; None where that is not known."""
    key: dict[str, Any]
    """arm, backbone, labels and seed, as in the tables of a comparison."""
    group: str
    title: str = ""
    fresh: bool = False
    keep_model: bool = True
    num_trials: int = 1
    head: HeadConfig = field(default_factory=HeadConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def run(
    identity: Identity,
    training: Training,
    phases: Sequence[Phase],
    *,
    more: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Run it, or go on with it, or return the result of the finished run.

    Args:
        identity: see its fields.
        training: what the phases share; what it trains has its first weights.
        phases: in their order.
        more: called after the choice; what it answers joins the result.

    Returns:
        What `transfer.transfer` says of it, and what `more` answered.
    """
    output, runtime, dataset, quiet = identity.output, training.runtime, training.dataset, training.quiet
    test, learner = dataset.splits["test"], training.learner
    with RunFolder(
        output,
        identity.settings,
        runtime,
        identity=identity.fingerprints,
        fresh=identity.fresh,
        volatile=(*VOLATILE, *identity.volatile),
    ) as folder:
        if folder.result is not None:
            if not quiet:
                runtime.say(f"{output}: finished before; nothing to do (--fresh starts over)")
                describe(folder.result, output, runtime)
            return folder.result
        if not quiet:
            runtime.say(identity.introduction)
        named_so = {"group": identity.group, "job_type": identity.stage, "title": identity.title}
        tracker = Tracker(folder.metrics, identity.tracking, runtime, settings=identity.settings, **named_so)
        if not (folder.checkpoints / f"{phases[0].name}.pt").is_file():
            if runtime.is_main:
                drop_after(folder.metrics, phases[0].name, -1)
            place = {"phase": phases[0].name, "epoch": 0, "step": 0, "split": "validation"}
            tracker.log({**place, **measure_start(training)})
        tuned = None
        if identity.num_trials > 1:
            tuned = tune(training, phases, identity.num_trials, folder=folder.path / "trials")
            if runtime.is_main:
                replay(tuned, tracker, folder.metrics)
            trained = tuned.trained
        else:
            kept = folder.checkpoints if identity.keep_model else None
            trained = run_plan(training, phases, tracker=tracker, metrics=folder.metrics, states=kept)
        found, chosen = trained.found, trained.preferred
        logits: dict[str, Tensor] = {}
        for name, state in trained.weights.items():
            learner.load_state_dict(state)
            logits[name] = training.logits(test)
            found[name]["test"] = classification(logits[name], dataset.labels[test])
        parameters = training.objective.backbone.parameters()
        result = {
            "chosen": chosen,
            "num_train": len(training.labelled),
            "num_validation": len(training.validation),
            "num_parameters": sum(parameter.numel() for parameter in parameters),
            "phases": found,
            **({} if tuned is None else {"tuned": tuned.report}),
            **more(),
        }
        if runtime.is_main:
            save_array(output / PREDICTED, class_logits(logits[chosen]).argmax(dim=1).numpy().astype(np.int32))
            drop_after(folder.metrics, "chosen", -1)
        tracker.log({"phase": "chosen", "split": "test", **found[chosen]["test"]})
        # As in the summary of a comparison: a phase's metrics are those on the test images.
        named = {**found, "chosen": found[chosen]}
        tracker.summarize(
            {f"{phase}/{metric}": value for phase, one in named.items() for metric, value in one["test"].items()}
        )
        tracker.close()
        if runtime.is_main:
            leave_hits(output, logits[chosen], dataset.labels[test])
        if identity.keep_model and runtime.is_main:
            learner.load_state_dict(trained.weights[chosen])
            origin = {**identity.provenance, "settings": identity.settings, "data_fingerprint": dataset.fingerprint}
            leave_model(training, output, identity.head, origin, seen=identity.seen)
            leave_evaluation(training, output, logits[chosen])
            leave_curves(output, identity.key, result)
        folder.finish(result)
        if tuned is not None and not identity.keep_model:
            drop_states(tuned.place, training)
        if not quiet:
            describe(result, output, runtime)
        return result


def supervised(
    recipe: TransferRecipe, dataset: Dataset, backbone: Backbone, head: Head, labelled: Tensor
) -> Supervised:
    """The objective of a recipe, on the CPU."""
    return Supervised(
        backbone,
        head,
        augment=recipe.augment,
        num_classes=len(dataset.classes),
        label_smoothing=recipe.label_smoothing,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
        class_weights=_class_weights(recipe, dataset, labelled),
        keep_statistics=recipe.batch_norm == "frozen",
    )


def _class_weights(recipe: TransferRecipe, dataset: Dataset, labelled: Tensor) -> Tensor | None:
    """(K,) float32: the number of images by that of the class and the number of classes, so that their mean is 1."""
    if recipe.imbalance != "weights":
        return None
    counts = torch.bincount(dataset.labels[labelled], minlength=len(dataset.classes)).float()
    return len(labelled) / (counts * len(counts))


def describe(result: dict[str, Any], output: Path, runtime: Runtime) -> None:
    """Print a run's accuracies."""
    width = max(map(len, result["phases"]))
    for name, phase in result["phases"].items():
        preferred = "  <- preferred by validation" if name == result["chosen"] else ""
        accuracies = [f"{split} {phase[split]['accuracy']:.1%}" for split in ("validation", "test")]
        runtime.say(f"  {name:{width}}  {'  '.join(accuracies)}{preferred}")
    if "teacher" in result:
        accuracies = [f"{split} {result['teacher'][split]['accuracy']:.1%}" for split in ("validation", "test")]
        runtime.say(f"  {'teacher':{width}}  {'  '.join(accuracies)}")
    if "tuned" in result:
        runtime.say(f"  {summary(result['tuned'])}")
    runtime.say(f"run folder: {output}")
