"""Write the outputs of an adaptation: the model for the target, its evaluation, the choice in its log, a summary."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.methods.base import View
from ssl_transfer.objectives import ADAPTATIONS
from ssl_transfer.stages.common.initialization import seen_after
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.pretrain import monitoring
from ssl_transfer.stages.transfer.outputs import write_evaluation, write_model, write_predicted
from ssl_transfer.stages.transfer.plans.phase_tree import Phase

from .config import AdaptConfig
from .domain_training import DomainTraining, candidates, kept, training_of

_SIGNS = {
    "discriminator_accuracy": "near 50 %: it cannot tell the domains apart",
    "domain_distance": "near 0: batches of both are alike",
    "sure": "of the target's images the share that had a label to learn from",
    "a_distance": "lower after: closer; at 0 a linear classifier cannot tell the domains apart, at 2 it always can",
    "information": "higher after: surer answers, and all classes among them",
    "density": "higher after: neighbours answer more alike, as they also do where nothing is known",
}
"""Signs of success that need no labels of the target, and how to read them."""


def logged(metrics: Path, choose: str, around: DomainTraining, phases: Sequence[Phase]) -> dict[str, Any]:
    """Read the choice from the log, on rank 0: `chosen`, `epoch`, `adapted`, `criteria` and `training`."""
    found, runtime = {}, around.training.runtime
    if runtime.is_main:
        criteria = candidates(metrics)
        choice = kept(metrics, choose)
        adapted = any(phase.name == choice["phase"] and around.adapts(phase) for phase in phases)
        found = {
            "chosen": choice["phase"],
            "epoch": choice["epoch"],
            "adapted": adapted,
            "criteria": criteria,
            "training": training_of(metrics, choice, adapted=adapted),
        }
    return json.loads(runtime.from_main(json.dumps(found)))


def write_outputs(
    around: DomainTraining,
    folder: Path,
    config: AdaptConfig[Any],
    origin: dict[str, Any],
    run: Run | None,
    target_logits: tuple[Tensor, Tensor] | None,
) -> None:
    """Export the chosen model with the target's statistics, and its evaluation. Called on rank 0.

    Args:
        around: holds the chosen model.
        folder: of the run.
        config: of the run.
        origin: provenance of the model.
        run: that `init` names.
        target_logits: indices (T,) of the target's labelled test images and their logits (T, K); None: there are none.
    """
    training, target = around.training, around.target
    learned = training.dataset
    parts = [learned.contents, target.contents]
    contents = None
    if parts[0] is not None and parts[1] is not None:
        contents = np.concatenate([parts[0][training.labelled.numpy()], parts[1][around.pool.numpy()]])
    size = training.objective.backbone.spec.image_size
    monitoring.draw_views(folder / "views.png", (View(config.augment),), learned, size=size, seed=training.seed)
    with around.module.in_target():
        write_model(training, folder, config.head, origin, seen=seen_after(run, contents), images=target)
    if target_logits is None:
        return
    test, logits = target_logits
    write_predicted(folder, logits)
    validation = around.outputs(learned, training.validation)[0]
    held = {"validation": (learned, training.validation, validation), "test": (target, test, logits)}
    write_evaluation(folder, learned.classes, held)


def describe(result: dict[str, Any], output: Path, runtime: Runtime) -> None:
    """Print the accuracies, and the signs of success."""
    before, after, choose = result["before"], result["after"], result["choose"]
    test = "no labelled test images" if result["target_test"] is None else f"{result['target_test']['accuracy']:.1%}"
    labels = "  (trained on the target's labels: an upper bound)" if result["uses_target_labels"] else ""
    runtime.say(
        f"  target test {test}{labels}; source validation {result['source_validation']['accuracy']:.1%}; chosen by "
        f"{choose}: {result['chosen']}, epoch {result['epoch']}"
    )
    if "oracle" in result:
        oracle = result["oracle"]
        tested = "" if oracle["target_test"] is None else f", target test {oracle['target_test']['accuracy']:.1%}"
        runtime.say(
            f"  upper bound: the candidate that labels of the target would choose: target validation "
            f"{oracle['target_validation']:.1%}{tested}"
        )
    told = {
        name: f"{value:.3g}" if name == "domain_distance" else f"{value:.1%}"
        for name, value in result["training"].items()
        if name in _SIGNS
    }
    told |= {
        name: f"{before[name]:.2f} before, {after[name]:.2f} after" for name in ("a_distance", "information", "density")
    }
    signs = [
        f"    {'A-distance' if name == 'a_distance' else name.replace('_', ' ')} {value} ({_SIGNS[name]})"
        for name, value in told.items()
    ]
    if not result["adapted"] and ADAPTATIONS[result["method"]].term is not None:
        runtime.say(
            "  the head phase was chosen: what this run leaves was not adapted (another --choose, or --plan full)"
        )
    runtime.say("  is it working? signs, none of them with labels of the target:", *signs)
    runtime.say(f"run folder: {output}")
