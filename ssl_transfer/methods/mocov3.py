"""MoCo version 3: views are recognised among the batch's other images, by a slowly moving copy of the encoder.

Chen, Xie and He, "An empirical study of training self-supervised vision transformers", ICCV 2021. With q the prediction
from a view and k the momentum encoder's keys of the images' other views, k+ that of the same image, all of unit length,
summed over the two roles that the views can have (their equation 1 and algorithm 1):

    loss = -2 t log( exp(q k+ / t) / sum over k of exp(q k / t) )

Version 2's queue is gone, the keys are those of the batch over all processes, and a predictor has come. Heads are the
authors': BatchNorm behind every layer, the last without scale and shift; for vision transformers projectors of three
layers, for others of two and no norm at the predictor's end. BatchNorm normalises each view apart. Differs from the
paper in the heads' widths, in crops of at least 20 % of the image, not 8 %, and in that transformers are initialised as
timm does it, with learned position embeddings.

Shapes: B images of this process, D features, P projector width, W processes.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.objective import Batch, Objective, Output
from ssl_transfer.models.backbones import Backbone, BackboneConfig

from .base import Method, View, check_counts, deviations
from .momentum_encoder import FIRST_VIEW, SECOND_VIEW, check_momentum, copied, follow, momentum_at, view_pair


@dataclass(frozen=True, kw_only=True)
class MoCoV3Config:
    """Settings of MoCo version 3."""

    temperature: float = 0.2
    """Divides the cosines (0.2 in the paper for vision transformers, 1 in the authors' code for ResNet-50)."""
    momentum: float = 0.99
    """How much of the key encoder stays at each step, at the start; it rises to 1 along a cosine (0.99 there)."""
    hidden_width: int = 512
    """Width of the hidden layers of projector and predictor (4,096 in the paper)."""
    output_width: int = 128
    """Width of the projector's output, P (256 in the paper)."""
    freeze_patches: bool = False
    """Leave the patch projection of a vision transformer as it was drawn, which steadied large trainings in the paper
    (section 4.2)."""
    augment: AugmentConfig = FIRST_VIEW
    """What makes the first view (BYOL's: always blurred)."""
    second_augment: AugmentConfig = SECOND_VIEW
    """What makes the second view (seldom blurred, now and then solarised)."""


class MoCoV3(Objective):
    """See the module's text.

    Args:
        backbone: trained in place; it is the query encoder's.
        temperature: t above.
        momentum: at the start.
        hidden_width: of both heads.
        output_width: P.
        freeze_patches: whether the patch projection is left alone.
        augment: how the first view is made.
        second_augment: how the second view is made.
    """

    loss_over_batch = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        temperature: float,
        momentum: float,
        hidden_width: int,
        output_width: int,
        freeze_patches: bool,
        augment: AugmentConfig,
        second_augment: AugmentConfig,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"temperature {temperature}: it must be above 0, usually 0.2 to 1.")
        check_momentum(momentum)
        check_counts(hidden_width=hidden_width, output_width=output_width)
        if freeze_patches and not backbone.is_vit:
            raise InputError(
                f"freeze_patches: {backbone.spec.name} has no patch projection. Leave it out, or take a vision "
                "transformer of timm."
            )
        self.backbone = backbone
        if freeze_patches:
            backbone.model.patch_embed.proj.requires_grad_(False)
        hidden = (hidden_width,) * (2 if backbone.is_vit else 1)
        self.projector = _normed_mlp((backbone.num_features, *hidden, output_width))
        self.predictor = _normed_mlp((output_width, hidden_width, output_width), norm_last=backbone.is_vit)
        self.key_backbone, self.key_projector = copied(backbone), copied(self.projector)
        self._temperature, self._momentum = temperature, momentum
        self._augments = augment, second_augment

    def contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The loss of queries (B, P) among the keys of all processes, here (B, P), in float32; keys get no gradient."""
        with torch.autocast(queries.device.type, enabled=False):
            others = collectives.gather_without_gradient(F.normalize(keys.float(), dim=1))
            logits = F.normalize(queries.float(), dim=1) @ others.T / self._temperature
            own = torch.arange(len(queries), device=queries.device) + collectives.process_index() * len(queries)
            return 2.0 * self._temperature * F.cross_entropy(logits, own)

    def forward(self, batch: Batch) -> Output:
        """The loss over both views of each image, each once the query and once the key."""
        views = view_pair(batch, self.backbone, *self._augments)
        features = [self.backbone(view) for view in views]
        outputs = [self.projector(part) for part in features]
        first, second = (self.predictor(part) for part in outputs)
        with torch.no_grad():
            first_keys, second_keys = (self.key_projector(self.key_backbone(view)) for view in views)
        loss = self.contrast(first, second_keys) + self.contrast(second, first_keys)
        return Output(loss, deviations(torch.cat(features), torch.cat(outputs)))

    def after_step(self, progress: float) -> None:
        """Move the key encoder's weights towards the query encoder's."""
        pairs = (self.key_backbone, self.backbone), (self.key_projector, self.projector)
        follow(*pairs, momentum=momentum_at(progress, start=self._momentum))


def _normed_mlp(widths: tuple[int, ...], *, norm_last: bool = True) -> ProjectionHead:
    """Linear layers of these widths, BatchNorm behind each and ReLU between them; the last norm has no weights."""
    *hidden, (before, last) = pairwise(widths)
    blocks = [(narrow, wide, nn.BatchNorm1d(wide), nn.ReLU(inplace=True)) for narrow, wide in hidden]
    end = nn.BatchNorm1d(last, affine=False) if norm_last else nn.Identity()
    return ProjectionHead([*blocks, (before, last, end, None)])


METHOD = Method(
    summary="contrast of two views over the batch with predictor and momentum encoder (Chen, Xie and He 2021)",
    config=MoCoV3Config,
    module=MoCoV3,
    backbone=BackboneConfig(name="vit_tiny_patch16_224"),
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.1),
    views=lambda settings: (View(settings.augment), View(settings.second_augment)),
)
