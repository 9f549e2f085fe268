"""Describe the transfer plan: phases as data, and the settings that all arms of a comparison share.

A phase is a line of text: the trained layers (`head`, `last:2`, `first:1`, `from:features.12.conv.1`, `all`), then
`rate=`, `epochs=`, `decay=` and `norm=` where they differ from the recipe. Named plans are lists of such lines.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ssl_transfer.data.transforms.augment import SUPERVISED_DEFAULT, AugmentConfig
from ssl_transfer.data.transforms.presets import augment_field
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.early_stopping import StoppingConfig
from ssl_transfer.models.heads import HeadConfig
from ssl_transfer.stages.common.run_config import check_positive

PLANS = {
    "feature-extraction": "the head on the frozen backbone, nothing else",
    "probe": "a logistic regression on the frozen backbone's features, its strength chosen by validation",
    "fine-tune": "the head, then everything at a tenth of its rate",
    "fine-tune-frozen": "as fine-tune, with BatchNorm statistics kept",
    "partial": "the head, then also the last blocks: partial, partial last:3 or partial from:NAME",
    "gradual": "the head, then one more block from behind in each phase: gradual, or gradual 4 (Howard and Ruder 2018)",
    "full": "everything at once",
    "full-fast": "everything at once at a high rate, equal in all layers, as random weights need it",
    "low-level": "the first blocks, the others dropped, and a new head: low-level 3 (few images, unlike the source)",
    "surgical": "the head, then also the first blocks: surgical, or surgical first:2 (Lee et al. 2023)",
}
WORDS = ("probe", "head", "last:N", "first:N", "from:NAME", "all")
AUTO = "auto"
PORTFOLIO = ("feature-extraction", "probe", "fine-tune-frozen", "fine-tune", "full-fast")
"""Plans of `--plans auto`, the same for every arm."""
_WITH_BLOCKS = ("partial", "gradual", "low-level", "surgical")
"""Plans that depend on the blocks of a backbone."""
HEADS = ("probe", "head")
"""Phases that train the head alone."""
SETTINGS = {
    "rate": "a number above 0",
    "epochs": "a whole number from 1",
    "decay": "above 0, at most 1",
    "norm": "train or frozen",
}
"""Settings of a phase, with their values."""
FIRST = ""
"""Value of `Phase.after`: the first weights of the run."""
_LAST, _SURGICAL, _GRADUAL = "last:2", "first:1", 3


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of a plan: trained layers, learning rate, length."""

    name: str
    trained: str
    learning_rate: float
    layer_decay: float
    epochs: int
    batch_norm: Literal["train", "frozen"] = "train"
    """Statistics of trained BatchNorm layers: moved by the batches, or kept."""
    after: str | None = None
    """Phase from whose weights it starts; FIRST: the first weights of the run; None: the phase before it."""


@dataclass(frozen=True, kw_only=True)
class TransferRecipe:
    """The transfer plan and its settings."""

    plan: tuple[str, ...] = ("fine-tune",)
    """A named plan: feature-extraction, fine-tune, partial, gradual, full, low-level, surgical (the README says what
    each is); or phases, each in quotes: head "last:2 rate=1e-3 epochs=20" "all rate=1e-4 decay=0.75"."""
    plans: tuple[str, ...] = ()
    """Several plans for each run, of which its validation images choose: auto (feature-extraction, probe,
    fine-tune-frozen, fine-tune, full-fast), or named plans. Empty: --plan alone."""
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
    batch_norm: Literal["train", "frozen"] = "train"
    """Statistics of BatchNorm layers that are trained: moved by the batches, or kept. Frozen layers never move."""
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
        if self.plans and self.plan != TransferRecipe.plan:
            raise InputError(f"--plan {' '.join(self.plan)} and --plans {' '.join(self.plans)}: give one of the two.")
        trained = {line.split()[0] for plan in self.named_plans.values() for line in lines_of(plan)}
        shown = f"--plans {' '.join(self.plans)}" if self.plans else f"--plan {' '.join(self.plan)}"
        if self.frozen_views is not None and not any(
            word == "head" or word[:4] in ("last", "from") for word in trained
        ):
            raise InputError(
                f"frozen_views {self.frozen_views} would be ignored: no phase of {shown} trains behind a frozen part "
                "alone. Leave it out."
            )
        if self.batch_norm == "frozen" and trained <= set(HEADS):
            raise InputError(f"batch_norm frozen would be ignored: {shown} trains the head alone. Leave it out.")
        if "probe" in trained and (self.head.kind != "linear" or self.head.one_logit or self.head.dropout):
            raise InputError(
                f"{shown}: a probe fits a linear head of one score a class without dropout. Leave --head out, or take "
                "other plans."
            )

    @property
    def named_plans(self) -> dict[str, tuple[str, ...]]:
        """Return the plans of each run by name: those of `plans`, or `plan` alone."""
        if not self.plans:
            return {self.plan[0] if self.plan else "": self.plan}
        names = PORTFOLIO if self.plans == (AUTO,) else self.plans
        for name in names:
            if name not in PLANS or name in _WITH_BLOCKS:
                allowed = [AUTO, *(one for one in PLANS if one not in _WITH_BLOCKS)]
                raise InputError(f"--plans {name}: no plan of this name.{did_you_mean(name, allowed)} {allowed}")
        return {name: (name,) for name in dict.fromkeys(names)}

    @property
    def keep_blocks(self) -> int | None:
        """Number of the backbone's first blocks that the plan keeps; None keeps all."""
        name, arguments = self.plan[0], self.plan[1:]
        return _count(name, arguments[0]) if name == "low-level" else None

    @property
    def plan_label(self) -> str:
        """Name the plan for a folder; empty for the default."""
        words = re.sub(r"[^\w.]+", "-", " ".join(self.plan))
        return "" if self.plan == TransferRecipe.plan else f"-{words}"

    def phases(self, steps_per_epoch: int) -> tuple[Phase, ...]:
        """Return the phases of the plan with their lengths."""
        check_positive(
            epochs=self.epochs,
            head_steps=self.head_steps,
            finetune_steps=self.finetune_steps,
            batch_size=self.batch_size,
        )
        plans = {name: self._plan_phases(plan, steps_per_epoch) for name, plan in self.named_plans.items()}
        return merged(plans) if self.plans else next(iter(plans.values()))

    def _plan_phases(self, plan: Sequence[str], steps_per_epoch: int) -> tuple[Phase, ...]:
        found = [self._phase(line, steps_per_epoch) for line in lines_of(plan)]
        heads = [phase.learning_rate for phase in found if phase.trained == "head"]
        limit = min(heads, default=self.optimizer.learning_rate)
        for phase in found:
            if phase.trained not in HEADS and phase.learning_rate > limit:
                raise InputError(
                    f"--plan {phase.trained}: a rate of {phase.learning_rate:g} is above the head's {limit:g} and "
                    f"would undo what the weights bring. Give less, as in '{phase.trained} rate={limit / 10:g}'."
                )
        return _named(found)

    def _phase(self, line: str, steps_per_epoch: int) -> Phase:
        trained, *settings = line.split()
        alone = trained in HEADS
        steps = self.head_steps if alone else self.finetune_steps
        phase = Phase(
            name=trained if alone else "finetune",
            trained=trained,
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


def lines_of(plan: Sequence[str]) -> tuple[str, ...]:
    """Parse the lines of a plan into phases; a named plan is written out.

    Raises:
        InputError: an unknown plan, phase or setting; a plan without a phase.
    """
    if not plan or not plan[0].strip():
        raise InputError(f"--plan trains nothing: name one of {', '.join(PLANS)}, or phases such as head all.")
    name, *arguments = plan
    lines = _written_out(name, arguments) if name in PLANS else tuple(plan)
    for line in lines:
        _check(line)
    return lines


def _written_out(name: str, arguments: Sequence[str]) -> tuple[str, ...]:
    takes = name in _WITH_BLOCKS
    if len(arguments) > (1 if takes else 0):
        raise InputError(f"--plan {name} {' '.join(arguments)}: it takes {'one word' if takes else 'no word'} more.")
    if name == "low-level" and not arguments:
        raise InputError("--plan low-level: how many of the first blocks are kept? As in `low-level 3`.")
    if name == "gradual":
        count = _count(name, arguments[0]) if arguments else _GRADUAL
        return ("head", *(f"last:{number}" for number in range(1, count + 1)))
    if name == "low-level":
        _count(name, arguments[0])
        return ("head",)
    if name in ("partial", "surgical"):
        default, kinds = (_LAST, ("last", "from")) if name == "partial" else (_SURGICAL, ("first",))
        line = arguments[0] if arguments else default
        _check(line)
        if line.split()[0].partition(":")[0] not in kinds:
            allowed = "last:N or from:NAME" if name == "partial" else "first:N"
            raise InputError(f"--plan {name} {line}: {allowed}, or another plan.")
        return ("head", line)
    return {
        "feature-extraction": ("head",),
        "probe": ("probe",),
        "fine-tune": ("head", "all"),
        "fine-tune-frozen": ("head", "all norm=frozen"),
        "full": ("all",),
        "full-fast": ("all rate=3e-3 decay=1 norm=train",),
    }[name]


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--plan {name} {text}: a number of blocks, 1 or more.")
    return int(text)


def _check(line: str) -> None:
    """Refuse a line that is no phase. Names of layers are looked up in the backbone later."""
    trained, *settings = line.split() or [""]
    kind, colon, rest = trained.partition(":")
    known = trained in (*HEADS, "all") or (colon and rest and kind in ("last", "first", "from"))
    if not known or (kind in ("last", "first") and not (rest.isdecimal() and int(rest))):
        raise InputError(
            f"--plan {line!r}: neither a plan ({', '.join(PLANS)}) nor a phase ({', '.join(WORDS)}, N from 1)."
            f"{did_you_mean(trained, [*PLANS, *WORDS])}"
        )
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in SETTINGS:
            raise InputError(
                f"--plan {line!r}: {setting!r} is no setting of a phase; there are {', '.join(SETTINGS)}, as in "
                "rate=1e-3."
            )
        if not _is_value(name, text):
            raise InputError(f"--plan {line!r}: {setting!r} must be {SETTINGS[name]}.")


def _is_value(name: str, text: str) -> bool:
    if name == "norm":
        return text in ("train", "frozen")
    try:
        value = float(text)
    except ValueError:
        return False
    return value > 0.0 and (name != "epochs" or text.isdecimal()) and (name != "decay" or value <= 1.0)


def _named(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """Number the names that occur more than once: finetune-1, finetune-2."""
    named = []
    for name in (*HEADS, "finetune"):
        same = [phase for phase in phases if phase.name == name]
        named += [
            (phase, replace(phase, name=f"{name}-{number}") if len(same) > 1 else phase)
            for number, phase in enumerate(same, start=1)
        ]
    return tuple(next(new for old, new in named if old is phase) for phase in phases)


def merged(plans: Mapping[str, Sequence[Phase]]) -> tuple[Phase, ...]:
    """Join plans into one list of phases, in which equal beginnings are trained once.

    Each phase names the one from whose weights it starts (`Phase.after`). The last phase of a plan has the plan's name,
    except a phase of the head, which keeps its own.

    Args:
        plans: phases of each plan, by its name.
    """
    found: dict[tuple[str, Phase], Phase] = {}
    for plan, phases in plans.items():
        after = FIRST
        for phase in phases:
            # Names differ between equal phases of two plans.
            key = (after, replace(phase, name=""))
            if key not in found:
                taken = {one.name for one in found.values()}
                name = phase.name if phase.trained in HEADS and phase.name not in taken else plan
                name = f"{plan}-{phase.name}" if name in taken else name
                found[key] = replace(phase, name=name, after=after)
            after = found[key].name
    return tuple(found.values())
