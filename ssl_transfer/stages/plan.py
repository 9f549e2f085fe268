"""The transfer plan: phases as data, and the settings that all arms of a comparison share."""

from dataclasses import dataclass

from ..data.augment import SUPERVISED_DEFAULT, AugmentConfig
from ..engine.errors import InputError
from ..engine.optim import OptimizerConfig
from ..objectives.supervised import Trained
from .run import check_positive


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of a plan: what is trained, how fast, how long."""

    name: str
    trained: Trained
    learning_rate: float
    layer_decay: float
    epochs: int


@dataclass(frozen=True, kw_only=True)
class TransferRecipe:
    """The transfer plan and its settings: first the head on the frozen backbone, then everything."""

    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-2, weight_decay=1e-2, warmup_steps=10)
    """How weights are stepped; its learning rate is the head phase's."""
    finetune_rate: float = 0.1
    """The second phase's learning rate as a share of the first's; at most 1."""
    layer_decay: float = 0.75
    """In the second phase each layer learns at this share of the rate of the one behind it; 1 is the same rate."""
    epochs: int = 30
    """Passes over the labelled images in each phase; more where they make fewer steps than the phase needs."""
    head_steps: int = 150
    """Least optimiser steps of the head phase: with few labels an epoch is a step or two."""
    finetune_steps: int = 300
    """Least optimiser steps of the second phase. A vision transformer from scratch needs them (docs/decisions.md)."""
    batch_size: int = 64
    """Images per optimiser step; all labelled images where there are fewer."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    augment: AugmentConfig = SUPERVISED_DEFAULT
    """What happens to training images."""

    def __post_init__(self) -> None:
        if not 0.0 < self.finetune_rate <= 1.0:
            raise InputError(
                f"finetune_rate {self.finetune_rate}: above 0 and at most 1, or it would undo the head phase."
            )
        if not 0.0 < self.layer_decay <= 1.0:
            raise InputError(f"layer_decay {self.layer_decay}: above 0 and at most 1.")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise InputError(f"label_smoothing {self.label_smoothing}: 0 or more and below 1.")

    def plan(self, steps_per_epoch: int) -> tuple[Phase, ...]:
        """The phases, each long enough."""
        check_positive(
            epochs=self.epochs,
            head_steps=self.head_steps,
            finetune_steps=self.finetune_steps,
            batch_size=self.batch_size,
        )
        rate = self.optimizer.learning_rate
        return (
            Phase(
                name="head",
                trained="head",
                learning_rate=rate,
                layer_decay=1.0,
                epochs=max(self.epochs, -(-self.head_steps // steps_per_epoch)),
            ),
            Phase(
                name="finetune",
                trained="all",
                learning_rate=rate * self.finetune_rate,
                layer_decay=self.layer_decay,
                epochs=max(self.epochs, -(-self.finetune_steps // steps_per_epoch)),
            ),
        )
