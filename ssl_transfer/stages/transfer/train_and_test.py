"""Train a model through a plan, choose by validation, test once, export: the work of transfer and distillation.

Validation chooses between the phases, by accuracy and among equals by log-loss. Then the test images are read, once,
for all phases. Adaptation chooses otherwise and shares only the template (`common.stage_template`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ssl_transfer.engine.console.formatting import drawn, table
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.randomness import seed_from
from ssl_transfer.engine.runs.run_folder import RunFolder
from ssl_transfer.engine.tracking.tracker import Tracker, drop_after
from ssl_transfer.evaluation.features.extract import extract
from ssl_transfer.evaluation.features.knn import knn_accuracy
from ssl_transfer.evaluation.predictions.metrics import classification
from ssl_transfer.methods.base import View
from ssl_transfer.stages.common.stage_template import Prepared, Stage, log_start, run_stage
from ssl_transfer.stages.pretrain import monitoring

from .config import PlannedConfig
from .outputs import write_curves, write_evaluation, write_learning_rates, write_model, write_predicted
from .phase_switch import falls, sentence
from .phases import Training, find_rate
from .plan_training import run_plan
from .plans.phase_tree import FIRST, Phase, path_to, starts_of
from .tune import drop_states, replay, summary, tune


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """A model with its first weights, and the phases that train it."""

    config: PlannedConfig
    training: Training
    phases: tuple[Phase, ...]
    output: Path
    introduction: str
    provenance: dict[str, Any]
    """Origin of the initial weights and, where there is one, of the teacher."""
    seen: np.ndarray | None
    """Images known to the exported weights, as in `Dataset.contents`; None where unknown."""
    key: dict[str, Any]
    """arm, backbone, labels and seed, as in the tables of a comparison."""
    num_trials: int
    """Trials of the plan (`tune`); 1 tunes nothing."""
    keep_model: bool
    measure_more: Callable[[], dict[str, Any]] = dict
    """Called after the choice; its values join the result."""


def train_plan(stage: Stage, make: Callable[[], TrainPlan], *, search_rate: bool) -> dict[str, Any]:
    """Run a stage with a plan, resume it, or return the result of the finished run.

    Args:
        stage: identity and caller.
        make: builds the model; not called where a quiet run has finished.
        search_rate: only run the learning-rate range test of the first phase.

    Returns:
        As `transfer.transfer`, with the values of `measure_more`.
    """
    if search_rate:
        plan = make()
        found = find_rate(plan.training, plan.phases[0], seed=seed_from(plan.config.seed, 2, 0))
        return write_learning_rates(
            plan.training, plan.phases[0], plan.output.with_name(f"{plan.output.name}-rates"), found
        )
    return run_stage(stage, lambda: _prepared(stage, make()))


def _prepared(stage: Stage, plan: TrainPlan) -> Prepared:
    def clean_up(folder: Path, result: dict[str, Any]) -> None:
        if plan.num_trials > 1 and not plan.keep_model:
            drop_states(folder / "trials" / str(result["tuned"]["chosen"]), plan.training)

    return Prepared(
        output=plan.output,
        introduction=plan.introduction,
        work=lambda folder, tracker: _work(stage, plan, folder, tracker),
        describe=describe,
        clean_up=clean_up,
    )


def _work(stage: Stage, plan: TrainPlan, folder: RunFolder, tracker: Tracker) -> dict[str, Any]:
    training, runtime, dataset = plan.training, plan.training.runtime, plan.training.dataset
    if not training.states(folder.checkpoints, plan.phases[0]).exist():
        starts, measured = starts_of(plan.phases), measure_start(training)
        for name in (name for name, start in starts.items() if start == FIRST):
            log_start(folder, tracker, name, runtime, measured)
    tuned = None
    if plan.num_trials > 1:
        tuned = tune(training, plan.phases, plan.num_trials, folder=folder.path / "trials")
        if runtime.is_main:
            replay(tuned, tracker)
        trained = tuned.trained
    else:
        kept = folder.checkpoints if plan.keep_model else None
        trained = run_plan(training, plan.phases, tracker=tracker, metrics=folder.metrics, states=kept)
    found, chosen, test = trained.found, trained.preferred, dataset.splits["test"]
    logits: dict[str, Tensor] = {}
    for name, state in trained.weights.items():
        training.learner.load_state_dict(state)
        logits[name] = training.logits(test)
        found[name]["test"] = classification(logits[name], dataset.labels[test])
    path = path_to(plan.phases, chosen)
    taken = [phase for phase in plan.phases if phase.name in path]
    sizes = {"train": len(training.labelled), "validation": len(training.validation)}
    fallen = json.loads(runtime.from_main(json.dumps(falls(folder.metrics, taken, sizes))))
    for one in fallen:
        training.say(f"warning: {sentence(one)}")
    result = {
        "chosen": chosen,
        "num_train": len(training.labelled),
        "num_validation": len(training.validation),
        "num_parameters": sum(parameter.numel() for parameter in training.objective.backbone.parameters()),
        "phases": found,
        **({} if all(phase.after is None for phase in plan.phases) else {"path": path}),
        **({"falls": fallen} if fallen else {}),
        **({} if tuned is None else {"tuned": tuned.report}),
        **plan.measure_more(),
    }
    _log_choice(folder, tracker, result, runtime)
    if runtime.is_main:
        write_predicted(folder.path, logits[chosen])
        if plan.keep_model:
            training.learner.load_state_dict(trained.weights[chosen])
            _export(stage, plan, folder.path, result, logits[chosen])
    return result


def _log_choice(folder: RunFolder, tracker: Tracker, result: dict[str, Any], runtime: Runtime) -> None:
    chosen, found = result["chosen"], result["phases"]
    if runtime.is_main:
        drop_after(folder.metrics, "chosen", -1)
    tracker.log({"phase": "chosen", "split": "test", **found[chosen]["test"]})
    # As in the summary of a comparison: a phase's metrics are those of the test images.
    named = {**found, "chosen": found[chosen]}
    tested = {f"{phase}/{metric}": value for phase, one in named.items() for metric, value in one["test"].items()}
    validation = found[chosen]["validation"]["accuracy"]
    tracker.summarize({**tested, "validation/accuracy": validation, "num_train": result["num_train"]})


def _export(stage: Stage, plan: TrainPlan, folder: Path, result: dict[str, Any], logits: Tensor) -> None:
    """Write the chosen model, which the objective holds, and its evaluation. Called on rank 0."""
    training, dataset, test = plan.training, plan.training.dataset, plan.training.dataset.splits["test"]
    origin = {**plan.provenance, "settings": stage.settings, "data_fingerprint": dataset.fingerprint}
    write_model(training, folder, plan.config.head, origin, seen=plan.seen, images=dataset)
    held = {
        "validation": (dataset, training.validation, training.logits(training.validation)),
        "test": (dataset, test, logits),
    }
    write_evaluation(folder, dataset.classes, held)
    views = (View(training.recipe.augment),)
    size = training.objective.backbone.spec.image_size
    monitoring.draw_views(folder / "views.png", views, dataset, size=size, seed=training.seed)
    write_curves(folder, plan.key, result)


def measure_start(training: Training) -> dict[str, float]:
    """Measure the validation images before any training: metrics of the new head, and kNN accuracy of the features."""
    backbone, dataset = training.objective.backbone, training.dataset
    splits = (training.labelled, training.validation)
    train, validation = (extract(backbone, dataset, indices, training.runtime) for indices in splits)
    knn = knn_accuracy(train, dataset.labels[splits[0]], validation, dataset.labels[splits[1]])
    return {**training.measure(training.validation), "knn_accuracy": knn}


def describe(result: dict[str, Any], output: Path, runtime: Runtime) -> None:
    """Print the accuracies of each phase, and the choice."""
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
