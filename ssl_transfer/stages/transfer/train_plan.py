"""Train a model through a plan, choose by validation, export what was chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ssl_transfer.engine.console.formatting import drawn, table
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.runs.run_folder import RunFolder
from ssl_transfer.engine.tracking.tracker import Tracker, drop_after
from ssl_transfer.evaluation.features.extract import extract
from ssl_transfer.evaluation.features.knn import knn_accuracy
from ssl_transfer.evaluation.predictions.metrics import classification
from ssl_transfer.methods.base import View
from ssl_transfer.models.heads import HeadConfig
from ssl_transfer.stages.common.run_stage import Identity, log_start, within
from ssl_transfer.stages.pretrain import monitoring
from ssl_transfer.stages.transfer.outputs import leave_curves, leave_evaluation, leave_model, leave_predicted
from ssl_transfer.stages.transfer.phases import Training
from ssl_transfer.stages.transfer.plan import Phase
from ssl_transfer.stages.transfer.tune import drop_states, replay, run_plan, summary, tune


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """What a run with a plan leaves, beside its result."""

    head: HeadConfig
    provenance: dict[str, Any]
    """Of the weights that it starts from and, where there is one, of the teacher."""
    seen: np.ndarray | None
    """The images that the exported weights know, as in `Dataset.contents`; None where that is not known."""
    key: dict[str, Any]
    """arm, backbone, labels and seed, as in the tables of a comparison."""
    keep_model: bool


def run(
    identity: Identity,
    training: Training,
    phases: Sequence[Phase],
    leaving: Leaving,
    *,
    num_trials: int,
    more: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Run it, or go on with it, or return the result of the finished run.

    Args:
        identity: see its fields.
        training: what the phases share; what it trains has its first weights.
        phases: in their order.
        leaving: see its fields.
        num_trials: of the plan (`tune`); 1 tunes nothing.
        more: called after the choice; what it answers joins the result.

    Returns:
        What `transfer.transfer` says of it, and what `more` answered.
    """
    runtime, dataset, learner = training.runtime, training.dataset, training.learner
    test = dataset.splits["test"]

    def work(folder: RunFolder, tracker: Tracker) -> dict[str, Any]:
        if not training.states(folder.checkpoints, phases[0]).exist():
            log_start(folder, tracker, phases[0].name, runtime, measure_start(training))
        tuned = None
        if num_trials > 1:
            tuned = tune(training, phases, num_trials, folder=folder.path / "trials")
            if runtime.is_main:
                replay(tuned, tracker)
            trained = tuned.trained
        else:
            kept = folder.checkpoints if leaving.keep_model else None
            trained = run_plan(training, phases, tracker=tracker, metrics=folder.metrics, states=kept)
        found, chosen = trained.found, trained.preferred
        logits: dict[str, Tensor] = {}
        for name, state in trained.weights.items():
            learner.load_state_dict(state)
            logits[name] = training.logits(test)
            found[name]["test"] = classification(logits[name], dataset.labels[test])
        result = {
            "chosen": chosen,
            "num_train": len(training.labelled),
            "num_validation": len(training.validation),
            "num_parameters": sum(parameter.numel() for parameter in training.objective.backbone.parameters()),
            "phases": found,
            **({} if tuned is None else {"tuned": tuned.report}),
            **more(),
        }
        if runtime.is_main:
            leave_predicted(folder.path, logits[chosen])
            drop_after(folder.metrics, "chosen", -1)
        tracker.log({"phase": "chosen", "split": "test", **found[chosen]["test"]})
        # As in the summary of a comparison: a phase's metrics are those on the test images.
        named = {**found, "chosen": found[chosen]}
        tested = {f"{phase}/{metric}": value for phase, one in named.items() for metric, value in one["test"].items()}
        validation = found[chosen]["validation"]["accuracy"]
        tracker.summarize({**tested, "validation/accuracy": validation, "num_train": len(training.labelled)})
        if leaving.keep_model and runtime.is_main:
            learner.load_state_dict(trained.weights[chosen])
            origin = {**leaving.provenance, "settings": identity.settings, "data_fingerprint": dataset.fingerprint}
            leave_model(training, folder.path, leaving.head, origin, seen=leaving.seen, images=dataset)
            held = {
                "validation": (dataset, training.validation, training.logits(training.validation)),
                "test": (dataset, test, logits[chosen]),
            }
            leave_evaluation(folder.path, dataset.classes, held)
            views = (View(training.recipe.augment),)
            size = training.objective.backbone.spec.image_size
            monitoring.draw_views(folder.path / "views.png", views, dataset, size=size, seed=training.seed)
            leave_curves(folder.path, leaving.key, result)
        return result

    result = within(identity, runtime, work, describe, quiet=training.quiet)
    if num_trials > 1 and not leaving.keep_model:
        drop_states(identity.output / "trials" / str(result["tuned"]["chosen"]), training)
    return result


def measure_start(training: Training) -> dict[str, float]:
    """Metrics of the validation images before any training: a new head knows nothing, nearest neighbours need none."""
    backbone, dataset = training.objective.backbone, training.dataset
    splits = (training.labelled, training.validation)
    known, asked = (extract(backbone, dataset, indices, training.runtime) for indices in splits)
    knn = knn_accuracy(known, dataset.labels[splits[0]], asked, dataset.labels[splits[1]])
    return {**training.measure(training.validation), "knn_accuracy": knn}


def describe(result: dict[str, Any], output: Path, runtime: Runtime) -> None:
    """Print each phase's accuracies, and which model the run left."""
    listed = table("phase", "validation", "test", "seconds", "")
    for name, one in result["phases"].items():
        chosen = "preferred by validation" if name == result["chosen"] else ""
        listed.add_row(name, *_accuracies(one), f"{one['seconds']:.1f}", chosen)
    if "teacher" in result:
        listed.add_row("teacher", *_accuracies(result["teacher"]))
    runtime.say(drawn(listed))
    if "tuned" in result:
        runtime.say(f"  {summary(result['tuned'])}")
    runtime.say(f"run folder: {output}")


def _accuracies(measured: dict[str, Any]) -> list[str]:
    return [f"{measured[split]['accuracy']:.1%}" for split in ("validation", "test")]
