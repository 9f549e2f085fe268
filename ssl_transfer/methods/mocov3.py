"""Pretrain with MoCo version 3: find the key of an image among the batch's keys, from a momentum encoder.

Chen, Xie and He, "An empirical study of training self-supervised vision transformers", ICCV 2021. q is the prediction
from a view, k the momentum encoder's keys of the images' other views and k+ that of the same image, all of unit length;
t is the temperature. The loss is the sum over both assignments of the views (equation 1 and algorithm 1):

    loss = -2 t log( exp(q k+ / t) / sum over k of exp(q k / t) )

Version 2's queue is gone: the keys are those of the batch over all processes, and there is a predictor. Heads are the
authors': BatchNorm behind every layer, the last without scale and shift. Projectors of vision transformers have three
layers, those of others two, with no norm at the predictor's end. BatchNorm normalises each view apart.

Differences: narrower heads, crops of at least 20 % of the image (8 % in the paper), and timm's initialisation of
transformers, with learned position embeddings.

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

from .base import Method, View, check_counts, deviations, make_views
from .momentum_encoder import FIRST_VIEW, SECOND_VIEW, check_momentum, momentum_at, momentum_copy, momentum_update


@dataclass(frozen=True, kw_only=True)
class MoCoV3Config:
    """Set up MoCo version 3."""

    temperature: float = 0.2
    """Divides the cosines (0.2 in the paper for vision transformers, 1 in the authors' code for ResNet-50)."""
    momentum: float = 0.99
    """Share of the key encoder that stays at each step, at the start; it rises to 1 along a cosine (0.99 there)."""
    hidden_width: int = 512
    """Width of the hidden layers of projector and predictor (4,096 in the paper)."""
    output_width: int = 128
    """Width of the projector's output, P (256 in the paper)."""
    freeze_patches: bool = False
    """Freeze the patch projection of a vision transformer at its random weights. This stabilised large trainings in the
    paper (section 4.2)."""
    augment: AugmentConfig = FIRST_VIEW
    """Augmentation of the first view (BYOL's: always blurred)."""
    second_augment: AugmentConfig = SECOND_VIEW
    """Augmentation of the second view (seldom blurred, now and then solarised)."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"temperature {self.temperature}: it must be above 0, usually 0.2 to 1.")
        check_momentum(self.momentum)
        check_counts(hidden_width=self.hidden_width, output_width=self.output_width)


class MoCoV3(Objective):
    """Train a backbone in place, as the query encoder of MoCo version 3.

    Raises:
        InputError: `freeze_patches` for a backbone without a patch projection.
    """

    loss_over_batch = True

    def __init__(self, backbone: Backbone, config: MoCoV3Config) -> None:
        super().__init__()
        if config.freeze_patches and not backbone.is_vit:
            raise InputError(
                f"freeze_patches: {backbone.spec.name} has no patch projection. Leave it out, or take a vision "
                "transformer of timm."
            )
        self.config = config
        self.backbone = backbone
        if config.freeze_patches:
            backbone.model.patch_embed.proj.requires_grad_(False)
        hidden = (config.hidden_width,) * (2 if backbone.is_vit else 1)
        self.projector = _normed_mlp((backbone.num_features, *hidden, config.output_width))
        self.predictor = _normed_mlp(
            (config.output_width, config.hidden_width, config.output_width), norm_last=backbone.is_vit
        )
        self.key_backbone, self.key_projector = momentum_copy(backbone), momentum_copy(self.projector)

    def contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Compute InfoNCE of queries (B, P) and the keys of all processes, here (B, P), in float32.

        Keys get no gradient.
        """
        temperature = self.config.temperature
        with torch.autocast(queries.device.type, enabled=False):
            others = collectives.gather_without_gradient(F.normalize(keys.float(), dim=1))
            logits = F.normalize(queries.float(), dim=1) @ others.T / temperature
            own = torch.arange(len(queries), device=queries.device) + collectives.process_index() * len(queries)
            return 2.0 * temperature * F.cross_entropy(logits, own)

    def forward(self, batch: Batch) -> Output:
        """Compute the loss with each view once as the query and once as the key."""
        size = self.backbone.spec.image_size
        views = make_views(batch, size, self.config.augment, self.config.second_augment)
        features = [self.backbone(view) for view in views]
        outputs = [self.projector(part) for part in features]
        first, second = (self.predictor(part) for part in outputs)
        with torch.no_grad():
            first_keys, second_keys = (self.key_projector(self.key_backbone(view)) for view in views)
        loss = self.contrast(first, second_keys) + self.contrast(second, first_keys)
        return Output(loss, deviations(torch.cat(features), torch.cat(outputs)))

    def after_step(self, progress: float) -> None:
        """Update the key encoder, an exponential moving average of the query encoder."""
        pairs = (self.key_backbone, self.backbone), (self.key_projector, self.projector)
        momentum_update(*pairs, momentum=momentum_at(progress, start=self.config.momentum))


def _normed_mlp(widths: tuple[int, ...], *, norm_last: bool = True) -> ProjectionHead:
    """Build linear layers with BatchNorm behind each and ReLU between them; the last norm has no weights."""
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
    views=lambda config: (View(config.augment), View(config.second_augment)),
)
