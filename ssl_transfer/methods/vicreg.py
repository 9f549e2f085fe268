"""Pretrain with VICReg: match two views, keep the variance of each output, and decorrelate the outputs.

Bardes, Ponce and LeCun, "VICReg: variance-invariance-covariance regularization for self-supervised learning", ICLR
2022. z and z' are the projections of the two views, with n images in the batch and d outputs; C is the covariance over
the batch (equations 1 to 6):

    invariance s = mean over images of |z - z'|^2
    variance   v = mean over outputs of max(0, 1 - sqrt(Var + 1e-4))
    covariance c = sum over i and j != i of C_ij^2 / d
    loss = 25 s + 25 (v(z) + v(z')) + 1 (c(z) + c(z'))

The loss is lightly's, in float32 under any precision. It follows the authors' code where that differs from the
equations: s is a mean over outputs too, and v is the mean of both views. Variance and covariance are those of the
global batch, and the gradient equals that of a single process.

Differences: narrower projectors (8192 in the paper), AdamW as the default optimiser (LARS in the paper), and an
augmentation without solarisation.

Shapes: B images of this process, W processes, P projector width.
"""

from dataclasses import dataclass

import torch
from lightly.loss import VICRegLoss

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.objective import Batch, Objective, Output
from ssl_transfer.models.backbones import Backbone

from .base import Method, check_projector, deviations, make_views, projector


@dataclass(frozen=True, kw_only=True)
class VICRegConfig:
    """Set up VICReg."""

    invariance_weight: float = 25.0
    """Weight of the distance between the views (25 in the paper)."""
    variance_weight: float = 25.0
    """Weight of the hinge that keeps each output's deviation at 1 or more (25 in the paper; 0 collapses)."""
    covariance_weight: float = 1.0
    """Weight of the covariances between outputs (1 in the paper)."""
    projector_layers: int = 3
    """Linear layers of the projector (3 in the paper)."""
    hidden_width: int = 512
    """Width of the projector's hidden layers (8192 in the paper, for 1.3 million images)."""
    output_width: int = 512
    """Width of the projector's output, P (8192 in the paper; the loss takes P^2 memory)."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of both views."""

    def __post_init__(self) -> None:
        if self.invariance_weight <= 0 or self.variance_weight <= 0 or self.covariance_weight < 0:
            raise InputError(
                f"invariance_weight {self.invariance_weight}, variance_weight {self.variance_weight}, "
                f"covariance_weight {self.covariance_weight}: the first two must be above 0 and the last 0 or more; "
                "25, 25 and 1 in the paper."
            )
        check_projector(self)


class VICReg(Objective):
    """Train a backbone in place with VICReg."""

    loss_over_batch = True

    def __init__(self, backbone: Backbone, config: VICRegConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        # No bias in the last layer: distances and centred outputs remove it.
        self.projector = projector(backbone.num_features, config, bias_last=False)
        self.criterion = VICRegLoss(
            lambda_param=config.invariance_weight, mu_param=config.variance_weight, nu_param=config.covariance_weight
        )

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
    summary="views that agree, outputs that vary and do not repeat each other (Bardes et al. 2022)",
    config=VICRegConfig,
    module=VICReg,
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
)
