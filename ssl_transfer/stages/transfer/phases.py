"""Train one phase of a plan: freezing, cached features, optimiser and schedule of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.loaders.loader import Loader, Sampling
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import parameter_groups
from ssl_transfer.engine.runs.checkpoint_files import CheckpointConfig, StateFiles
from ssl_transfer.engine.tracking.tracker import Tracker
from ssl_transfer.engine.training.early_stopping import Race, Stopper, StoppingConfig, Watched
from ssl_transfer.engine.training.loop import train
from ssl_transfer.engine.training.lr_finder import Finding, find_learning_rate
from ssl_transfer.engine.training.objective import Batches, Objective
from ssl_transfer.engine.training.training_settings import Saving, TrainingPlan
from ssl_transfer.engine.training.validation import Validation
from ssl_transfer.evaluation.features.extract import over_images
from ssl_transfer.evaluation.predictions.metrics import classification
from ssl_transfer.models.frozen_boundary import cut
from ssl_transfer.models.heads import features_for
from ssl_transfer.models.layers.fx_graph import NotTraceableError
from ssl_transfer.models.trainable import select
from ssl_transfer.objectives.supervised import Supervised, batch_norms

from . import feature_cache as boundaries
from .plans.phase_tree import Phase
from .plans.recipe import TransferRecipe

FEW_FOR_STATISTICS = 16
"""Images below which BatchNorm's statistics are mostly noise (Wu and He 2018, figure 1)."""
WATCHED = Watched(metric="log_loss", higher_is_better=False)
"""With few validation images, the log-loss changes smoothly and the accuracy in jumps."""
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Model, data and settings that the phases of a run share."""

    objective: Supervised
    recipe: TransferRecipe
    dataset: Dataset
    labelled: Tensor
    """(N,) int64: training images."""
    validation: Tensor
    """(M,) int64."""
    batch_size: int
    """Labelled images per optimiser step over all processes."""
    seed: int
    """Seed of order and augmentation, equal in all phases."""
    runtime: Runtime
    quiet: bool
    checkpoints: CheckpointConfig
    """Checkpoints of the phases."""
    around: "Around | None" = None
    """Adaptation or distillation around the objective; None in a plain transfer."""

    def states(self, folder: Path, phase: Phase) -> StateFiles:
        """Return the checkpoint files of a phase."""
        return StateFiles(folder=folder, name=phase.name, best=f"{phase.name}.best", config=self.checkpoints)

    @property
    def learner(self) -> Objective:
        """The module that the loop trains and saves."""
        return self.objective if self.around is None else self.around.module

    def logits(self, indices: Tensor) -> Tensor:
        """Compute logits (N, K) of these images with the whole model."""
        return over_images(self.objective.logits, self.dataset, indices, self.runtime, "evaluating")

    def measure(self, indices: Tensor) -> dict[str, float]:
        """Measure these images with the whole model."""
        return classification(self.logits(indices), self.dataset.labels[indices])

    def say(self, message: str) -> None:
        """Print, except in a quiet run."""
        if not self.quiet:
            self.runtime.say(message)


@dataclass(frozen=True, kw_only=True)
class PhaseTraining:
    """A prepared phase, as the loop takes it."""

    batches: Batches
    validate: Callable[[], dict[str, float]]
    stopping: StoppingConfig
    watched: Watched = WATCHED
    noting: Sequence[Stopper] = ()


class Around(Protocol):
    """Adaptation or distillation around the supervised objective."""

    @property
    def module(self) -> Objective:
        """The module that is trained and saved; it holds the objective."""

    def begin(self, phase: Phase, plain: PhaseTraining) -> PhaseTraining:
        """Change a prepared phase: other batches, more terms in the loss, further metrics."""


def smallest_batch(recipe: TransferRecipe, batch_size: int, num_processes: int) -> int:
    """Return the images of the smallest part of a batch that BatchNorm normalises at once.

    Raises:
        InputError: one image, of which the hidden head's BatchNorm has no statistics.
    """
    shares = 1 if recipe.optimizer.sync_batch_norm else num_processes
    smallest = max(1, batch_size // shares // recipe.optimizer.accumulate)
    if recipe.head.kind == "hidden" and smallest < 2:
        raise InputError(
            "head.kind hidden normalises over the images of a batch, and there is one at a time: batches of "
            f"{batch_size}, {counted(num_processes, 'process', 'processes')}, optimizer.accumulate "
            f"{recipe.optimizer.accumulate}. Give larger batches, or another head."
        )
    return smallest


def run_phase(
    training: Training,
    phase: Phase,
    *,
    seed: int,
    tracker: Tracker,
    metrics: Path,
    states: Path | None,
    race: Race | None = None,
) -> dict[str, Any]:
    """Train one phase.

    Args:
        training: shared by the phases.
        phase: layers, learning rate, length.
        seed: of dropout and the like.
        tracker: where metrics go.
        metrics: the tracker's file.
        states: folder of the checkpoints; None saves none.
        race: ends a hopeless phase early.

    Returns:
        Metrics of `validation`, and the cost; `lost_race` where the race ended the phase.
    """
    made = prepare(training, phase)
    _warn_of_statistics(training, phase, made.batches)
    cost = train(
        training.learner,
        groups_of(training, phase),
        made.batches,
        plan=TrainingPlan(phase=phase.name, epochs=phase.epochs, seed=seed, optimizer=training.recipe.optimizer),
        saving=Saving(
            tracker=tracker,
            metrics_path=metrics,
            states=None if states is None else training.states(states, phase),
        ),
        runtime=training.runtime,
        validation=Validation(
            evaluate=made.validate,
            every=max(1, phase.epochs // 10),
            watched=made.watched,
            stopping=made.stopping,
            noting=made.noting,
            race=race,
        ),
    )
    # Features of this boundary are of no use to the next phase.
    training.objective.take_features(None)
    return {
        "validation": made.validate(),
        "seconds": cost.seconds,
        "images_seen": cost.images_seen,
        "peak_memory_mb": cost.peak_memory_mb,
        "energy_joules": cost.energy_joules,
        **({"lost_race": True} if cost.lost_race else {}),
    }


def find_rate(training: Training, phase: Phase, *, seed: int) -> Finding:
    """Run the learning-rate range test of a phase; the model keeps its state."""
    batches = prepare(training, phase).batches
    found = find_learning_rate(
        training.learner,
        groups_of(training, phase),
        batches,
        optimizer=training.recipe.optimizer,
        seed=seed,
        runtime=training.runtime,
    )
    training.objective.take_features(None)
    return found


def groups_of(training: Training, phase: Phase) -> list[dict[str, Any]]:
    """Group the trained parameters of a prepared phase by learning rate; the learner holds the backbone."""
    backbone, learner = training.objective.backbone, training.learner
    called = {parameter: name for name, parameter in learner.named_parameters()}
    names = {name: called[parameter] for name, parameter in backbone.named_parameters()}
    return parameter_groups(
        learner,
        learning_rate=phase.learning_rate,
        weight_decay=training.recipe.optimizer.weight_decay,
        # timm also names tokens that a model does not have.
        undecayed=[names[name] for name in backbone.undecayed() if name in names],
        layers={names[name]: depth for name, depth in backbone.layers().items()},
        layer_decay=phase.layer_decay,
    )


def prepare(training: Training, phase: Phase) -> PhaseTraining:
    """Freeze the layers of the phase, and make its batches and its validation."""
    if phase.kind != "steps":
        raise InputError(f"{phase.name}: not trained in steps. Take another plan.")
    batches, validate = _plain(training, phase)
    plain = PhaseTraining(batches=batches, validate=validate, stopping=training.recipe.stopping)
    return plain if training.around is None else training.around.begin(phase, plain)


def _plain(training: Training, phase: Phase) -> tuple[Batches, Callable[[], dict[str, float]]]:
    """Make batches of the labelled images and the validation; features are computed once where possible."""
    objective, recipe, runtime = training.objective, training.recipe, training.runtime
    boundary = select(objective.backbone, phase.trained).boundary
    views = recipe.frozen_views if boundary is not None else None
    objective.set_trained(phase.trained, augmented=views != 0, keep_statistics=phase.batch_norm == "frozen")
    loader = Loader(
        training.dataset,
        training.labelled,
        batch_size=training.batch_size,
        seed=training.seed,
        runtime=runtime,
        labelled=True,
        sampling=Sampling(balanced=recipe.imbalance == "sampling", views=views),
    )
    functions = _at_boundary(training, phase, boundary)
    batches: Batches = loader
    if functions is not None and views is not None:
        objective.eval()
        found = boundaries.training_features(objective, functions[0], loader, runtime)
        if isinstance(found, str):
            training.say(f"{phase.name}: {found}")
        else:
            batches = found
            objective.take_features(functions[1])
    if functions is None or (batches is loader and phase.trained != "head"):
        return batches, lambda: training.measure(training.validation)
    objective.eval()
    held = boundaries.held_features(objective, functions[0], training.dataset, training.validation, runtime)
    labels, from_boundary = training.dataset.labels[training.validation], functions[1]
    return batches, lambda: classification(boundaries.logits_of(objective, from_boundary, held, runtime), labels)


def _at_boundary(training: Training, phase: Phase, boundary: str | None) -> tuple[Function, Function] | None:
    """Return functions from images (B, C, S, S) to the boundary and on to the head's input; None without one."""
    backbone, head = training.objective.backbone, training.objective.head
    if phase.trained == "head":
        return (lambda images: features_for(head, backbone, images)), (lambda features: features)
    if boundary is None or training.recipe.frozen_views is None:
        return None
    if head.takes_maps:
        training.say(f"{phase.name}: features are computed live, as this head takes the backbone's map")
        return None
    try:
        return cut(backbone, boundary)
    except NotTraceableError as error:
        training.say(f"{phase.name}: features are computed live: {error}")
        return None


def _warn_of_statistics(training: Training, phase: Phase, batches: Batches) -> None:
    """Warn of tiny batches that move BatchNorm's statistics."""
    training.objective.train()
    moving = [norm for norm in batch_norms(training.objective) if norm.training]
    share = smallest_batch(training.recipe, batches.batch_size, training.runtime.num_processes)
    if moving and share < FEW_FOR_STATISTICS:
        training.say(
            f"warning: {phase.name}: {len(moving)} BatchNorm layers take their statistics from batches of {share} "
            "images; --batch-norm frozen keeps those that the backbone has."
        )
