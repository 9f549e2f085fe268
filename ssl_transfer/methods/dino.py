"""DINO: a student seeing parts of an image gives the answer of its slowly moving teacher, who sees more of it.

Caron, Touvron, Misra, Jegou, Mairal, Bojanowski and Joulin, "Emerging properties in self-supervised vision
transformers", ICCV 2021. Teacher and student turn a view into probabilities over P prototypes (their equations 1 to 4):

    loss = mean over teacher's views v and student's views w != v of  -sum over p of  t(v)_p log s(w)_p
    t(v) = softmax((teacher(v) - centre) / teacher temperature)     s(w) = softmax(student(w) / student temperature)

The teacher sees two global crops, the student these and small local ones. The low temperature of the teacher keeps all
prototypes from being alike, the centre, a moving mean of the teacher's outputs, keeps one from winning everywhere.

The loss is not lightly's, whose centre moves within the loss: here it moves after the step, by the mean over every
micro-batch and process, so both are exact. Nor is the head, whose weight norm can be neither copied nor saved in mid-
training. Differs from the paper in that prototypes always have unit length, that features are averaged patches instead
of the class token where the backbone has them so, in a constant weight decay, in the widths, and in that P is small.

Shapes: B images, V views of the student, C channels, S pixels a side, D features, P prototypes, W processes.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.data.transforms.augment import augment as augment_images
from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.objective import Batch, Objective, Output
from ssl_transfer.models.backbones import Backbone, BackboneConfig
from ssl_transfer.models.small_images import smaller_size

from .base import Method, View, check_counts, deviations
from .momentum_encoder import FIRST_VIEW, SECOND_VIEW, check_momentum, copied, follow, momentum_at, view_pair


@dataclass(frozen=True, kw_only=True)
class DINOConfig:
    """Settings of DINO."""

    local_crops: int = 6
    """Small crops of each image that the student sees besides the two global ones; 0 leaves multi-crop out (then let
    global crops begin at 0.14 of the image, as the authors do)."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Smallest and largest share of the image's area that a local crop shows (the authors' code)."""
    local_size: float = 96 / 224
    """Side of a local crop as a share of the image's (the paper's sizes), rounded to whole patches of a vision
    transformer. A backbone that takes no other size than its own gets local crops enlarged to that."""
    teacher_temperature: float = 0.04
    """Divides the teacher's outputs after its warm-up (0.04 to 0.07 in the paper; above it is unstable)."""
    first_teacher_temperature: float = 0.04
    """The same in the first step."""
    temperature_steps: int = 0
    """Steps over which the teacher's temperature rises from the first to the last (30 epochs in the paper)."""
    student_temperature: float = 0.1
    """Divides the student's outputs (0.1 in the paper)."""
    centre_momentum: float = 0.9
    """How much of the centre stays at each step (0.9 in the paper)."""
    momentum: float = 0.99
    """How much of the teacher stays at each step, at the start; it rises to 1 along a cosine. The paper has 0.996."""
    frozen_steps: int = 20
    """First steps in which the prototypes get no gradient (one epoch in the authors' code)."""
    hidden_width: int = 512
    """Width of the head's hidden layers (2,048 in the paper)."""
    bottleneck_width: int = 128
    """Width of the unit vectors that are compared with the prototypes (256 in the paper)."""
    output_width: int = 1024
    """Number of prototypes, P (65,536 in the paper, for 1.3 million images)."""
    augment: AugmentConfig = replace(FIRST_VIEW, crop_scale=(0.4, 1.0))
    """What makes the first global crop. Local ones are made likewise, half as often blurred."""
    second_augment: AugmentConfig = replace(SECOND_VIEW, crop_scale=(0.4, 1.0))
    """What makes the second global crop (seldom blurred, now and then solarised)."""


class DINO(Objective):
    """See the module's text.

    Args:
        backbone: trained in place; it is the student's. A plain vision transformer takes other sizes afterwards too.
        local_crops: how many.
        local_scale: what share of the image they show.
        local_size: how large they are.
        teacher_temperature: after the warm-up.
        first_teacher_temperature: where it begins.
        temperature_steps: its length.
        student_temperature: of the student.
        centre_momentum: of the centre.
        momentum: of the teacher, at the start.
        frozen_steps: of the prototypes.
        hidden_width: of the heads.
        bottleneck_width: before the prototypes.
        output_width: P.
        augment: how the first global crop and the local ones are made.
        second_augment: how the second global crop is made.
    """

    centre: Tensor
    teacher_sum: Tensor
    teacher_count: Tensor
    steps: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        local_crops: int,
        local_scale: tuple[float, float],
        local_size: float,
        teacher_temperature: float,
        first_teacher_temperature: float,
        temperature_steps: int,
        student_temperature: float,
        centre_momentum: float,
        momentum: float,
        frozen_steps: int,
        hidden_width: int,
        bottleneck_width: int,
        output_width: int,
        augment: AugmentConfig,
        second_augment: AugmentConfig,
    ) -> None:
        super().__init__()
        check_momentum(momentum)
        if min(teacher_temperature, first_teacher_temperature, student_temperature) <= 0:
            raise InputError(
                f"teacher_temperature {teacher_temperature}, first_teacher_temperature {first_teacher_temperature}, "
                f"student_temperature {student_temperature}: all must be above 0, usually 0.04, 0.04 and 0.1."
            )
        if not temperature_steps and first_teacher_temperature != teacher_temperature:
            raise InputError(
                f"first_teacher_temperature {first_teacher_temperature} would be ignored: give temperature_steps too."
            )
        if not 0.0 < local_size <= 1.0:
            raise InputError(f"local_size {local_size}: a share of the image's side, above 0 and at most 1.")
        if min(local_crops, temperature_steps, frozen_steps) < 0 or not 0.0 <= centre_momentum < 1.0:
            raise InputError(
                f"local_crops {local_crops}, temperature_steps {temperature_steps}, frozen_steps {frozen_steps}, "
                f"centre_momentum {centre_momentum}: none may be negative, and the momentum must be below 1."
            )
        check_counts(hidden_width=hidden_width, bottleneck_width=bottleneck_width, output_width=output_width)
        if not local_crops and (local_scale, local_size) != (DINOConfig.local_scale, DINOConfig.local_size):
            raise InputError("local_scale and local_size would be ignored: there are no local_crops.")
        self.backbone = backbone
        self._local_size = smaller_size(backbone, local_size) if local_crops else 0
        self.head = Head(backbone.num_features, hidden_width, bottleneck_width, output_width)
        self.teacher_backbone, self.teacher_head = copied(backbone), copied(self.head)
        self.register_buffer("centre", torch.zeros(output_width))
        # What the teacher said since the last step: summed up over micro-batches, back to zero after the step.
        self.register_buffer("teacher_sum", torch.zeros(output_width))
        self.register_buffer("teacher_count", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._temperatures = first_teacher_temperature, teacher_temperature, temperature_steps
        self._student_temperature, self._centre_momentum = student_temperature, centre_momentum
        self._momentum, self._frozen_steps = momentum, frozen_steps
        self._augments, self._locals = (augment, second_augment), _local_views(local_crops, local_scale, augment)

    def teacher_temperature(self) -> Tensor:
        """() float32: of this step."""
        first, last, steps = self._temperatures
        return first + (last - first) * (self.steps / max(1, steps)).clamp(max=1.0)

    def forward(self, batch: Batch) -> Output:
        """The loss over all pairs of a teacher's and another, student's, view of each image."""
        images = torch.cat(view_pair(batch, self.backbone, *self._augments))
        features = [self.backbone(images)]
        if self._locals:
            crops = [
                augment_images(batch.images, batch.keys, view=view, size=self._local_size, config=config)
                for view, config in enumerate(self._locals, start=2)
            ]
            features.append(self.backbone(torch.cat(crops)))
        learning = (self.steps >= self._frozen_steps).float()
        student = self.head(torch.cat(features), learning).unflatten(0, (-1, len(batch.images)))
        with torch.no_grad():
            teacher = self.teacher_head(self.teacher_backbone(images), learning).unflatten(0, (2, -1))
        loss = self.cross_entropy(student, teacher)
        if self.training:
            self.teacher_sum += teacher.sum(dim=(0, 1))
            self.teacher_count += 2 * len(batch.images)
        return Output(loss, deviations(features[0], student[:2].flatten(0, 1)))

    def cross_entropy(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of outputs (V, B, P) and (2, B, P) in float32; the student's first two views are the teacher's."""
        with torch.autocast(student.device.type, enabled=False):
            targets = F.softmax((teacher - self.centre) / self.teacher_temperature(), dim=2)
            answers = F.log_softmax(student / self._student_temperature, dim=2)
            losses = -torch.einsum("tbp,vbp->tv", targets, answers) / student.shape[1]
            same = torch.eye(2, len(student), dtype=torch.bool, device=student.device)
            return losses.masked_fill(same, 0.0).sum() / (2 * len(student) - 2)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher's weights towards the student's, and the centre towards the mean of what the teacher said.

        Every process has equally many images, so the mean over processes is the mean over images.
        """
        mean = collectives.gather_without_gradient((self.teacher_sum / self.teacher_count)[None]).mean(dim=0)
        self.centre.lerp_(mean, 1.0 - self._centre_momentum)
        self.teacher_sum.zero_()
        self.teacher_count.zero_()
        self.steps += 1
        pairs = (self.teacher_backbone, self.backbone), (self.teacher_head, self.head)
        follow(*pairs, momentum=momentum_at(progress, start=self._momentum))


class Head(nn.Module):
    """Features (B, D) -> cosines (B, P) with the prototypes, float32 whatever the precision.

    Args:
        num_features: D.
        hidden_width: of two hidden layers.
        bottleneck_width: of the vectors that are compared.
        output_width: P.
    """

    def __init__(self, num_features: int, hidden_width: int, bottleneck_width: int, output_width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_features, hidden_width),
            nn.GELU(),
            nn.Linear(hidden_width, hidden_width),
            nn.GELU(),
            nn.Linear(hidden_width, bottleneck_width),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Linear(bottleneck_width, output_width, bias=False)

    def forward(self, features: Tensor, learning: Tensor) -> Tensor:
        """`learning`: () float32, 1, or 0 for prototypes that get a gradient of zero."""
        codes = self.layers(features)
        with torch.autocast(features.device.type, enabled=False):
            still = self.prototypes.weight.detach()
            prototypes = still + learning * (self.prototypes.weight - still)
            return F.normalize(codes.float(), dim=1) @ F.normalize(prototypes, dim=1).T


def _local_views(count: int, scale: tuple[float, float], augment: AugmentConfig) -> tuple[AugmentConfig, ...]:
    """How each local crop is made: as the first global one, smaller and half as often blurred."""
    blur = None if augment.blur is None else augment.blur / 2
    return (replace(augment, crop_scale=scale, blur=blur),) * count


METHOD = Method(
    summary="a slowly moving teacher's answers to more of the image (Caron et al. 2021), with multi-crop",
    config=DINOConfig,
    module=DINO,
    backbone=BackboneConfig(name="vit_tiny_patch16_224"),
    optimizer=OptimizerConfig(learning_rate=5e-4, weight_decay=0.04, clip_norm=3.0),
    views=lambda settings: (
        View(settings.augment),
        View(settings.second_augment),
        *(
            View(augment, settings.local_size)
            for augment in _local_views(settings.local_crops, settings.local_scale, settings.augment)
        ),
    ),
)
