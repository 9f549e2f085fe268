"""Pretrain with DINO: match a student's output for parts of an image to a momentum teacher's output for more of it.

Caron, Touvron, Misra, Jegou, Mairal, Bojanowski and Joulin, "Emerging properties in self-supervised vision
transformers", ICCV 2021. Teacher and student map a view to probabilities over P prototypes (equations 1 to 4):

    loss = mean over teacher's views v and student's views w != v of  -sum over p of  t(v)_p log s(w)_p
    t(v) = softmax((teacher(v) - centre) / teacher temperature)     s(w) = softmax(student(w) / student temperature)

The teacher sees two global crops, the student these and small local crops. The teacher's low temperature prevents equal
probabilities of all prototypes. The centre, a moving mean of the teacher's outputs, prevents one prototype for all.

The loss is not lightly's, whose centre moves within the loss. Here the centre moves after the step, by the mean over
every micro-batch and process, so both are exact. The head is not lightly's, whose weight norm can be neither copied nor
saved during training.

Differences: prototypes always of unit length, a constant weight decay, narrower heads, and a small P. Features are the
backbone's: averaged patches instead of the class token where it pools so.

Shapes: B images, V views of the student, C channels, S pixels a side, D features, P prototypes, W processes.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.objective import Batch, Objective, Output
from ssl_transfer.models.backbones import Backbone, BackboneConfig
from ssl_transfer.models.small_images import smaller_size

from .base import Method, View, check_counts, deviations, make_views
from .momentum_encoder import FIRST_VIEW, SECOND_VIEW, check_momentum, momentum_at, momentum_copy, momentum_update


@dataclass(frozen=True, kw_only=True)
class DINOConfig:
    """Set up DINO."""

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
    """Share of the centre that stays at each step (0.9 in the paper)."""
    momentum: float = 0.99
    """Share of the teacher that stays at each step, at the start; it rises to 1 along a cosine. The paper has 0.996."""
    frozen_steps: int = 20
    """First steps in which the prototypes get no gradient (one epoch in the authors' code)."""
    hidden_width: int = 512
    """Width of the head's hidden layers (2,048 in the paper)."""
    bottleneck_width: int = 128
    """Width of the unit vectors that are compared with the prototypes (256 in the paper)."""
    output_width: int = 1024
    """Number of prototypes, P (65,536 in the paper, for 1.3 million images)."""
    augment: AugmentConfig = replace(FIRST_VIEW, crop_scale=(0.4, 1.0))
    """Augmentation of the first global crop, and of local ones, which are blurred half as often."""
    second_augment: AugmentConfig = replace(SECOND_VIEW, crop_scale=(0.4, 1.0))
    """Augmentation of the second global crop (seldom blurred, now and then solarised)."""

    def __post_init__(self) -> None:
        check_momentum(self.momentum)
        if min(self.teacher_temperature, self.first_teacher_temperature, self.student_temperature) <= 0:
            raise InputError(
                f"teacher_temperature {self.teacher_temperature}, first_teacher_temperature "
                f"{self.first_teacher_temperature}, student_temperature {self.student_temperature}: all must be above "
                "0, usually 0.04, 0.04 and 0.1."
            )
        if not self.temperature_steps and self.first_teacher_temperature != self.teacher_temperature:
            raise InputError(
                f"first_teacher_temperature {self.first_teacher_temperature} would be ignored: give temperature_steps "
                "too."
            )
        if not 0.0 < self.local_size <= 1.0:
            raise InputError(f"local_size {self.local_size}: a share of the image's side, above 0 and at most 1.")
        if (
            min(self.local_crops, self.temperature_steps, self.frozen_steps) < 0
            or not 0.0 <= self.centre_momentum < 1.0
        ):
            raise InputError(
                f"local_crops {self.local_crops}, temperature_steps {self.temperature_steps}, frozen_steps "
                f"{self.frozen_steps}, centre_momentum {self.centre_momentum}: none may be negative, and the momentum "
                "must be below 1."
            )
        check_counts(
            hidden_width=self.hidden_width, bottleneck_width=self.bottleneck_width, output_width=self.output_width
        )
        default = DINOConfig.local_scale, DINOConfig.local_size
        if not self.local_crops and (self.local_scale, self.local_size) != default:
            raise InputError("local_scale and local_size would be ignored: there are no local_crops.")

    @property
    def local_augments(self) -> tuple[AugmentConfig, ...]:
        """Return the augmentation of each local crop: the first global crop's, smaller and blurred half as often."""
        blur = None if self.augment.blur is None else self.augment.blur / 2
        return (replace(self.augment, crop_scale=self.local_scale, blur=blur),) * self.local_crops


class DINO(Objective):
    """Train a backbone in place, as the student of DINO.

    A plain vision transformer takes images of other sizes afterwards.
    """

    centre: Tensor
    teacher_sum: Tensor
    teacher_count: Tensor
    steps: Tensor

    def __init__(self, backbone: Backbone, config: DINOConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self._local_size = smaller_size(backbone, config.local_size) if config.local_crops else 0
        self.head = Head(backbone.num_features, config)
        self.teacher_backbone, self.teacher_head = momentum_copy(backbone), momentum_copy(self.head)
        self.register_buffer("centre", torch.zeros(config.output_width))
        # The teacher's outputs since the last step: summed up over micro-batches, zero again after the step.
        self.register_buffer("teacher_sum", torch.zeros(config.output_width))
        self.register_buffer("teacher_count", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def teacher_temperature(self) -> Tensor:
        """Return the teacher's temperature in this step, () float32."""
        first, last = self.config.first_teacher_temperature, self.config.teacher_temperature
        return first + (last - first) * (self.steps / max(1, self.config.temperature_steps)).clamp(max=1.0)

    def forward(self, batch: Batch) -> Output:
        """Compute the loss over all pairs of a teacher's view and another view of the student."""
        config = self.config
        images = torch.cat(make_views(batch, self.backbone.spec.image_size, config.augment, config.second_augment))
        features = [self.backbone(images)]
        if config.local_crops:
            crops = make_views(batch, self._local_size, *config.local_augments, first=2)
            features.append(self.backbone(torch.cat(crops)))
        learning = (self.steps >= config.frozen_steps).float()
        student = self.head(torch.cat(features), learning).unflatten(0, (-1, len(batch.images)))
        with torch.no_grad():
            teacher = self.teacher_head(self.teacher_backbone(images), learning).unflatten(0, (2, -1))
        loss = self.cross_entropy(student, teacher)
        if self.training:
            self.teacher_sum += teacher.sum(dim=(0, 1))
            self.teacher_count += 2 * len(batch.images)
        return Output(loss, deviations(features[0], student[:2].flatten(0, 1)))

    def cross_entropy(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the loss of outputs (V, B, P) and (2, B, P) in float32.

        The student's first two views are the teacher's.
        """
        with torch.autocast(student.device.type, enabled=False):
            targets = F.softmax((teacher - self.centre) / self.teacher_temperature(), dim=2)
            predictions = F.log_softmax(student / self.config.student_temperature, dim=2)
            losses = -torch.einsum("tbp,vbp->tv", targets, predictions) / student.shape[1]
            same = torch.eye(2, len(student), dtype=torch.bool, device=student.device)
            return losses.masked_fill(same, 0.0).sum() / (2 * len(student) - 2)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Update the teacher's weights from the student's, and the centre from the mean of the teacher's outputs.

        Every process has equally many images, so the mean over processes is the mean over images.
        """
        mean = collectives.gather_without_gradient((self.teacher_sum / self.teacher_count)[None]).mean(dim=0)
        self.centre.lerp_(mean, 1.0 - self.config.centre_momentum)
        self.teacher_sum.zero_()
        self.teacher_count.zero_()
        self.steps += 1
        pairs = (self.teacher_backbone, self.backbone), (self.teacher_head, self.head)
        momentum_update(*pairs, momentum=momentum_at(progress, start=self.config.momentum))


class Head(nn.Module):
    """Map features (B, D) to cosines (B, P) with the prototypes, float32 under any precision."""

    def __init__(self, num_features: int, config: DINOConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(num_features, config.hidden_width),
            nn.GELU(),
            nn.Linear(config.hidden_width, config.hidden_width),
            nn.GELU(),
            nn.Linear(config.hidden_width, config.bottleneck_width),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Linear(config.bottleneck_width, config.output_width, bias=False)

    def forward(self, features: Tensor, learning: Tensor) -> Tensor:
        """Compute the cosines; `learning` () float32 is 1, or 0 for prototypes that get a gradient of zero."""
        codes = self.layers(features)
        with torch.autocast(features.device.type, enabled=False):
            frozen = self.prototypes.weight.detach()
            prototypes = frozen + learning * (self.prototypes.weight - frozen)
            return F.normalize(codes.float(), dim=1) @ F.normalize(prototypes, dim=1).T


METHOD = Method(
    summary="a slowly moving teacher's answers to more of the image (Caron et al. 2021), with multi-crop",
    config=DINOConfig,
    module=DINO,
    backbone=BackboneConfig(name="vit_tiny_patch16_224"),
    optimizer=OptimizerConfig(learning_rate=5e-4, weight_decay=0.04, clip_norm=3.0),
    views=lambda config: (
        View(config.augment),
        View(config.second_augment),
        *(View(augment, config.local_size) for augment in config.local_augments),
    ),
)
