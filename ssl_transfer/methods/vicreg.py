"""VICReg: both views of an image lie together, and every output varies over the batch, by itself and with no other.

Bardes, Ponce and LeCun, "VICReg: variance-invariance-covariance regularization for self-supervised learning", ICLR
2022. With z and z' the projections of the two views, n images in the batch, d outputs and C the covariance over the
batch (their equations 1 to 6):

    invariance s = mean over images of |z - z'|^2
    variance   v = mean over outputs of max(0, 1 - sqrt(Var + 1e-4))
    covariance c = sum over i and j != i of C_ij^2 / d
    loss = 25 s + 25 (v(z) + v(z')) + 1 (c(z) + c(z'))

The loss is lightly's, which follows the authors' code where it differs from these equations: s is a mean over outputs
too, and v is the mean of both views. It is over the gathered batch of all processes, so that variance and covariance
are of the global batch, with the gradient that a single process would have, in float32 whatever the precision. Differs
from the paper in the projector's widths (8192 there), in the optimiser's default (AdamW; LARS there) and in the
augmentation, which does not solarise.

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

from .base import Method, augmented, deviations, projector


@dataclass(frozen=True, kw_only=True)
class VICRegConfig:
    """Settings of VICReg."""

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
    """What makes the two views."""


class VICReg(Objective):
    """See the module's text.

    Args:
        backbone: trained in place.
        invariance_weight: of s above.
        variance_weight: of v.
        covariance_weight: of c.
        projector_layers: its linear layers.
        hidden_width: of the projector.
        output_width: P.
        augment: how views are made.
    """

    loss_over_batch = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        invariance_weight: float,
        variance_weight: float,
        covariance_weight: float,
        projector_layers: int,
        hidden_width: int,
        output_width: int,
        augment: AugmentConfig,
    ) -> None:
        super().__init__()
        if invariance_weight <= 0 or variance_weight <= 0 or covariance_weight < 0:
            raise InputError(
                f"invariance_weight {invariance_weight}, variance_weight {variance_weight}, covariance_weight "
                f"{covariance_weight}: the first two must be above 0 and the last 0 or more; 25, 25 and 1 in the paper."
            )
        self.backbone = backbone
        # No bias at the end: distances and centred outputs take it out again.
        self.projector = projector(
            backbone.num_features,
            layers=projector_layers,
            hidden_width=hidden_width,
            output_width=output_width,
            bias_last=False,
        )
        self.criterion = VICRegLoss(
            lambda_param=invariance_weight, mu_param=variance_weight, nu_param=covariance_weight
        )
        self._augment = augment

    def forward(self, batch: Batch) -> Output:
        """The loss of the global batch, the same on every process."""
        features = self.backbone(augmented(batch, self.backbone, self._augment))
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
