"""Configure distillation."""

from dataclasses import dataclass, replace
from typing import ClassVar

from ssl_transfer.data.split import splits
from ssl_transfer.engine.errors import InputError
from ssl_transfer.models.backbones import BackboneConfig
from ssl_transfer.objectives.distillation import DistillationConfig
from ssl_transfer.stages.common.initialization import image_size_of, network_of_run
from ssl_transfer.stages.common.run import Run
from ssl_transfer.stages.transfer.config import TransferConfig
from ssl_transfer.stages.transfer.plans.lines import PROBE, lines_of

POOL_SHARE = 0.75
MOST_VIEWS = 10_000
"""Of an image; the teacher's outputs of all views are cached."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig(TransferConfig):
    """Train a small student on labelled images and on the outputs of a teacher, the model of a finished run."""

    teacher: str = ""
    """The folder of a run with a trained head: of transfer, adapt or distill."""
    student: str = ""
    """The student's network, as --backbone.name. Not needed where --init names a run or timm:NAME."""
    layer_decay: float = 1.0
    """As in transfer; by default every layer at the same rate."""
    pool: bool = False
    """Learn the teacher's outputs of all images of the pool: unlabelled and training, never validation or test."""
    pool_share: float = POOL_SHARE
    """With --pool the share of each batch that comes from the pool, above 0 and below 1; the rest has labels, but never
    more than there are. An epoch is then a pass over the pool."""
    fixed_views: int | None = None
    """Number of fixed augmented views of each image, which the epochs take in turns and the teacher sees only once; 0:
    images without augmentation. None: new views in each epoch, and new outputs of the teacher."""
    distillation: DistillationConfig = DistillationConfig()
    """Settings of the distillation loss."""

    default_plan: ClassVar[tuple[str, ...]] = ("full",)
    """The plan where neither `plan` nor `plans` is given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(line == PROBE for plan in self.named_plans.values() for line in lines_of(plan)):
            raise InputError(
                "distillation trains in steps on the teacher's outputs, a probe does not: take another plan."
            )
        if not 0.0 < self.pool_share < 1.0:
            raise InputError(f"pool_share {self.pool_share}: above 0 and below 1.")
        if not self.pool and self.pool_share != POOL_SHARE:
            raise InputError(f"pool_share {self.pool_share} would be ignored without --pool: give both, or neither.")
        if self.frozen_views is not None:
            raise InputError(
                f"frozen_views {self.frozen_views}: in distillation the teacher is frozen throughout. Give "
                f"--fixed-views {self.frozen_views}."
            )
        if self.fixed_views is not None and not 0 <= self.fixed_views <= MOST_VIEWS:
            raise InputError(f"fixed_views {self.fixed_views}: 0 or more, and at most {MOST_VIEWS:,}.")
        mixed = [name for name in ("mixup", "cutmix") if getattr(self, name)]
        if mixed and (self.pool or self.fixed_views is not None or self.distillation.teacher_view == "plain"):
            raise InputError(
                f"{' and '.join(mixed)} make new images of a labelled batch, which the teacher has to see: not with "
                "--pool, --fixed-views or distillation.teacher-view plain."
            )


def decided(config: DistillConfig, run: Run | None, teacher: Run) -> DistillConfig:
    """Fill in the student's network and, by default, the teacher's image size.

    Args:
        config: as the user gave it.
        run: that `init` names.
        teacher: of the run.

    Raises:
        InputError: no student is named, or two; mixed images of two sizes.
    """
    own, size = config.backbone, teacher.spec.image_size
    if config.student:
        if own.name not in (BackboneConfig().name, config.student):
            raise InputError(f"--student {config.student} and --backbone.name {own.name}: give one of them.")
        own = replace(own, name=config.student)
        own = own if run is None else network_of_run(run, own)
    elif own == BackboneConfig() and config.init in ("scratch", "imagenet"):
        raise InputError("--student: which network? A small one, as in --student mobilenetv3_small_100.")
    image_size = size if config.image_size is None and run is None else config.image_size
    config = replace(config, backbone=own, labels=splits.budget_name(config.labels), image_size=image_size)
    image_size = image_size_of(config, run)
    if (config.mixup or config.cutmix) and image_size != size:
        raise InputError(
            f"mixup and cutmix: the teacher takes images of {size} px and the student of {image_size}, and mixed "
            f"images are made at one size. Give --image-size {size}, or leave them out."
        )
    return replace(config, image_size=image_size)
