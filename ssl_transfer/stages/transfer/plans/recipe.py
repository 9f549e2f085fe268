"""Describe the transfer plan: phases as data, and the settings that all arms of a comparison share.

A phase is a line of text: the trained layers (`head`, `last:2`, `first:1`, `from:features.12.conv.1`, `all`), then
`rate=`, `epochs=`, `decay=` and `norm=` where they differ from the recipe. Named plans are lists of such lines.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from ssl_transfer.data.transforms.augment import SUPERVISED_DEFAULT, AugmentConfig
from ssl_transfer.data.transforms.presets import augment_field
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.early_stopping import StoppingConfig
from ssl_transfer.models.heads import HeadConfig
from ssl_transfer.stages.common.run_config import check_positive

from .lines import AUTO, AVERAGE, HEADS, PLANS, PORTFOLIO, PROBE, WITH_BLOCKS, count_of, lines_of
from .phase_tree import Kind, Phase, merged, named

_KINDS: dict[str, Kind] = {PROBE: "fit", AVERAGE: "average"}


@dataclass(frozen=True, kw_only=True)
class TransferRecipe:
    """The transfer plan and its settings."""

    plan: tuple[str, ...] = ()
    """One plan (docs/howto/plans.md): feature-extraction, probe, fine-tune, partial, gradual, full, low-level or
    surgical; or phases, each in quotes: head "last:2 rate=1e-3 epochs=20" "all rate=1e-4 decay=0.75". Default:
    fine-tune, in distillation full."""
    plans: tuple[str, ...] = ()
    """Competing plans, of which the validation images of each run choose one: auto (feature-extraction, probe,
    fine-tune-frozen, fine-tune-moving, full-fast), or any of the named plans."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-2, weight_decay=1e-2, warmup_steps=10)
    """Optimiser; its learning rate is that of phases that train the head alone."""
    finetune_rate: float = 0.1
    """The learning rate of all other phases as a share of the head's; at most 1."""
    layer_decay: float = 0.75
    """In these phases each layer has this share of the learning rate of the layer behind it; 1 is one rate for all."""
    epochs: int = 30
    """Passes over the labelled images in each phase; more where they make fewer steps than the phase needs."""
    head_steps: int = 150
    """Least optimiser steps of a head phase: with few labels an epoch is a step or two."""
    finetune_steps: int = 300
    """Least optimiser steps of any other phase. A vision transformer from scratch needs them (docs/decisions.md)."""
    batch_size: int = 64
    """Images per optimiser step; all labelled images where there are fewer."""
    head: HeadConfig = HeadConfig()
    """Head on the backbone."""
    frozen_views: int | None = None
    """Behind a frozen boundary, features may be computed once: of this number of fixed augmented views of each image,
    which the epochs take in turns; 0: of images without augmentation. None: new views in each epoch."""
    batch_norm: Literal["auto", "train", "frozen"] = "train"
    """Statistics of BatchNorm layers that are trained: train moves them by the batches, frozen keeps them. auto: frozen
    in transfer from weights that were trained on other images; otherwise train. Frozen layers never move."""
    stopping: StoppingConfig = StoppingConfig()
    """Early stopping of a phase by the log-loss of the validation images."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    mixup: float = 0.0
    """Images are mixed with others by a share drawn from Beta(mixup, mixup) (Zhang et al. 2018); 0 does not."""
    cutmix: float = 0.0
    """Boxes are pasted from other images, their share drawn from Beta(cutmix, cutmix) (Yun et al. 2019); 0 does not.
    With both, each batch draws one of the two."""
    imbalance: Literal["none", "weights", "sampling"] = "none"
    """For classes of unlike sizes. weights: the loss of each class counts as much; sampling: each is drawn as often."""
    augment: AugmentConfig = augment_field("supervised", SUPERVISED_DEFAULT)
    """Augmentation of training images."""

    default_plan: ClassVar[tuple[str, ...]] = ("fine-tune",)
    """The plan where neither `plan` nor `plans` is given."""

    def __post_init__(self) -> None:
        if not 0.0 < self.finetune_rate <= 1.0:
            raise InputError(
                f"finetune_rate {self.finetune_rate}: above 0 and at most 1, or it would undo the head phase."
            )
        if not 0.0 < self.layer_decay <= 1.0:
            raise InputError(f"layer_decay {self.layer_decay}: above 0 and at most 1.")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise InputError(f"label_smoothing {self.label_smoothing}: 0 or more and below 1.")
        if not (self.mixup >= 0.0 and self.cutmix >= 0.0):
            raise InputError(f"mixup {self.mixup}, cutmix {self.cutmix}: none may be negative.")
        if self.frozen_views is not None and self.frozen_views < 0:
            raise InputError(f"frozen_views {self.frozen_views}: 0 or more.")
        if self.frozen_views is not None and (self.mixup or self.cutmix):
            raise InputError("mixup and cutmix make new images of each batch, and frozen_views keeps them: give one.")
        if self.optimizer.accumulate > 1 and (self.mixup or self.cutmix):
            raise InputError(
                f"optimizer.accumulate {self.optimizer.accumulate}: mixup and cutmix would mix micro-batches, "
                "not of the batch. Leave them out, or accumulate."
            )
        if self.plans and self.plan:
            raise InputError(f"--plan {' '.join(self.plan)} and --plans {' '.join(self.plans)}: give one of the two.")
        lines = [line.split() for plan in self.named_plans.values() for line in lines_of(plan)]
        trained = {word for word, *_ in lines}
        shown = (
            f"--plans {' '.join(self.plans)}" if self.plans else f"--plan {' '.join(self.plan or self.default_plan)}"
        )
        if self.frozen_views is not None and not any(
            word == "head" or word[:4] in ("last", "from") for word in trained
        ):
            raise InputError(
                f"frozen_views {self.frozen_views} would be ignored: no phase of {shown} trains behind a frozen part "
                "alone. Leave it out."
            )
        if self.batch_norm == "frozen" and not self.leaves_batch_norm_open:
            reason = "trains the head alone" if trained <= set(HEADS) else "sets norm= in each phase"
            raise InputError(f"batch_norm frozen would be ignored: {shown} {reason}. Leave it out.")
        if PROBE in trained and (self.head.kind != "linear" or self.head.one_logit or self.head.dropout):
            raise InputError(
                f"{shown}: a probe fits a linear head of one score a class without dropout. Leave --head out, or take "
                "other plans."
            )

    def settled(self, batch_norm: Literal["train", "frozen"] = "train") -> Self:
        """Return these settings as a run records them: with a plan, and with `batch_norm` in place of auto."""
        return replace(self.with_plan(), batch_norm=batch_norm if self.batch_norm == "auto" else self.batch_norm)

    def with_plan(self) -> Self:
        """Return these settings with the default plan where no plan is given."""
        return self if self.plan or self.plans else replace(self, plan=self.default_plan)

    @property
    def named_plans(self) -> dict[str, tuple[str, ...]]:
        """Return the plans of each run by name: those of `plans`, or `plan` alone."""
        if not self.plans:
            plan = self.plan or self.default_plan
            return {plan[0]: plan}
        names = PORTFOLIO if self.plans == (AUTO,) else self.plans
        for name in names:
            if name not in PLANS or name in WITH_BLOCKS:
                allowed = [AUTO, *(one for one in PLANS if one not in WITH_BLOCKS)]
                raise InputError(f"--plans {name}: no plan of this name.{did_you_mean(name, allowed)} {allowed}")
        return {name: (name,) for name in dict.fromkeys(names)}

    @property
    def keep_blocks(self) -> int | None:
        """Number of the backbone's first blocks that the plan keeps; None keeps all."""
        name, *arguments = self.plan or self.default_plan
        return count_of(name, arguments[0]) if name == "low-level" else None

    @property
    def plan_label(self) -> str:
        """Name the plan for a folder; empty for the default."""
        words = re.sub(r"[^\w.]+", "-", " ".join(self.plans or self.plan))
        return "" if self.plan in ((), self.default_plan) and not self.plans else f"-{words}"

    @property
    def leaves_batch_norm_open(self) -> bool:
        """Return whether `batch_norm` applies to a phase: it trains layers of the backbone and does not set norm=."""
        lines = [line.split() for plan in self.named_plans.values() for line in lines_of(plan)]
        return any(
            word not in (*HEADS, AVERAGE) and not any(one.startswith("norm=") for one in settings)
            for word, *settings in lines
        )

    def phases(self, steps_per_epoch: int, *, has_batch_norm: bool = True) -> tuple[Phase, ...]:
        """Return the phases of the plan with their lengths; of several plans, equal phases once (`phase_tree.merged`).

        Args:
            steps_per_epoch: optimiser steps of an epoch.
            has_batch_norm: the backbone has BatchNorm; without, plans that differ in its treatment alone are equal.
        """
        check_positive(
            epochs=self.epochs,
            head_steps=self.head_steps,
            finetune_steps=self.finetune_steps,
            batch_size=self.batch_size,
        )
        plans = {name: self._plan_phases(plan, steps_per_epoch) for name, plan in self.named_plans.items()}
        if not has_batch_norm:
            plans = {
                name: tuple(replace(phase, batch_norm="train") for phase in found) for name, found in plans.items()
            }
        return merged(plans) if len(plans) > 1 else next(iter(plans.values()))

    def _plan_phases(self, plan: Sequence[str], steps_per_epoch: int) -> tuple[Phase, ...]:
        found = [self._phase(line, steps_per_epoch) for line in lines_of(plan)]
        heads = [phase.learning_rate for phase in found if phase.trained == "head"]
        limit = min(heads, default=self.optimizer.learning_rate)
        for phase in found:
            if phase.trained != "head" and phase.learning_rate > limit:
                raise InputError(
                    f"--plan {phase.trained}: a rate of {phase.learning_rate:g} is above the head's {limit:g} and "
                    f"would undo what the weights bring. Give less, as in '{phase.trained} rate={limit / 10:g}'."
                )
        return named(found)

    def _phase(self, line: str, steps_per_epoch: int) -> Phase:
        trained, *settings = line.split()
        alone = trained in HEADS
        steps = self.head_steps if alone else self.finetune_steps
        phase = Phase(
            name=trained if alone or trained == AVERAGE else "finetune",
            trained={PROBE: "head", AVERAGE: "all"}.get(trained, trained),
            kind=_KINDS.get(trained, "steps"),
            learning_rate=self.optimizer.learning_rate * (1.0 if alone else self.finetune_rate),
            layer_decay=1.0 if alone else self.layer_decay,
            epochs=max(self.epochs, -(-steps // steps_per_epoch)),
            batch_norm="frozen" if self.batch_norm == "frozen" else "train",
        )
        for setting in settings:
            name, _, text = setting.partition("=")
            if name == "epochs":
                phase = replace(phase, epochs=int(text))
            elif name == "rate":
                phase = replace(phase, learning_rate=float(text))
            elif name == "norm":
                phase = replace(phase, batch_norm="frozen" if text == "frozen" else "train")
            else:
                phase = replace(phase, layer_decay=float(text))
        return phase
