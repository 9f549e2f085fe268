"""Pretrain with Barlow Twins: decorrelate the outputs, and match each between two views.

Zbontar, Jing, Misra, LeCun and Deny, "Barlow Twins: self-supervised learning via redundancy reduction", ICML 2021. C_ij
is the correlation over the batch between output i of one view and output j of the other (equations 1 and 2):

    loss = sum over i of (1 - C_ii)^2 + lambda * sum over i and j != i of C_ij^2

There are no negatives and no second encoder. Normalised outputs cannot become constants.

The loss is lightly's, in float32 under any precision. Mean, deviation and correlation are those of the global batch,
and the gradient equals that of a single process.

Differences: narrower projectors (8192 in the paper), AdamW as the default optimiser (LARS in the paper), and one
augmentation for both views, without solarisation.

Shapes: B images of this process, W processes, P projector width.
"""

from dataclasses import dataclass

import torch
from lightly.loss import BarlowTwinsLoss

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.objective import Batch, Objective, Output
from ssl_transfer.models.backbones import Backbone

from .base import Method, check_projector, deviations, make_views, projector


@dataclass(frozen=True, kw_only=True)
class BarlowConfig:
    """Set up Barlow Twins."""

    redundancy_weight: float = 5e-3
    """Weight of the correlations between different outputs, lambda (5e-3 in the paper)."""
    projector_layers: int = 3
    """Linear layers of the projector (3 in the paper)."""
    hidden_width: int = 512
    """Width of the projector's hidden layers (8192 in the paper, for 1.3 million images)."""
    output_width: int = 512
    """Width of the projector's output, P (8192 in the paper, which gains up to there; the loss takes P^2 memory)."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of both views."""

    def __post_init__(self) -> None:
        if self.redundancy_weight <= 0:
            raise InputError(f"redundancy_weight {self.redundancy_weight}: it must be above 0, 5e-3 in the paper.")
        check_projector(self)


class Barlow(Objective):
    """Train a backbone in place with Barlow Twins."""

    loss_over_batch = True

    def __init__(self, backbone: Backbone, config: BarlowConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        # No bias in the last layer: the normalisation removes it.
        self.projector = projector(backbone.num_features, config, bias_last=False)
        self.criterion = BarlowTwinsLoss(lambda_param=config.redundancy_weight)

    def forward(self, batch: Batch) -> Output:
        """Compute the loss of the global batch, the same on every process."""
        augment = self.config.augment
        views = make_views(batch, self.backbone.spec.image_size, augment, augment)
        features = self.backbone(torch.cat(views))
        outputs = self.projector(features)
        # Two of (W * B, P).
        first, second = (collectives.gather(view.float()) for view in outputs.chunk(2))
        with torch.autocast(batch.images.device.type, enabled=False):
            loss = self.criterion(first, second)
        return Output(loss, deviations(features, outputs))


METHOD = Method(
    summary="outputs that agree between two views and not with each other (Zbontar et al. 2021)",
    config=BarlowConfig,
    module=Barlow,
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
)
