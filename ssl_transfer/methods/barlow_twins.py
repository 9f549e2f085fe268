"""Barlow Twins: each output says the same of both views of an image, and something else than every other output.

Zbontar, Jing, Misra, LeCun and Deny, "Barlow Twins: self-supervised learning via redundancy reduction", ICML 2021. With
C the correlations over the batch between the outputs i of one view and the outputs j of the other (their equations 1
and 2):

    loss = sum over i of (1 - C_ii)^2 + lambda * sum over i and j != i of C_ij^2

There are no negatives and no second encoder; what keeps the outputs from becoming constants is their normalisation. The
loss is lightly's, over the gathered batch of all processes: mean, deviation and correlation are of the global batch,
and the gradient is the one that a single process would have. In float32 whatever the precision. Differs from the paper
in the projector's widths (8192 there), in the optimiser's default (AdamW; LARS there) and in the augmentation, which is
the same for both views and does not solarise.

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

from .base import Method, augmented, deviations, projector


@dataclass(frozen=True, kw_only=True)
class BarlowConfig:
    """Settings of Barlow Twins."""

    redundancy_weight: float = 5e-3
    """Weight of the correlations between different outputs, lambda (5e-3 in the paper)."""
    projector_layers: int = 3
    """Linear layers of the projector (3 in the paper)."""
    hidden_width: int = 512
    """Width of the projector's hidden layers (8192 in the paper, for 1.3 million images)."""
    output_width: int = 512
    """Width of the projector's output, P (8192 in the paper, which gains up to there; the loss takes P^2 memory)."""
    augment: AugmentConfig = AugmentConfig()
    """What makes the two views."""


class Barlow(Objective):
    """See the module's text.

    Args:
        backbone: trained in place.
        redundancy_weight: lambda above.
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
        redundancy_weight: float,
        projector_layers: int,
        hidden_width: int,
        output_width: int,
        augment: AugmentConfig,
    ) -> None:
        super().__init__()
        if redundancy_weight <= 0:
            raise InputError(f"redundancy_weight {redundancy_weight}: it must be above 0, 5e-3 in the paper.")
        self.backbone = backbone
        # No bias at the end: the normalisation takes it out again.
        self.projector = projector(
            backbone.num_features,
            layers=projector_layers,
            hidden_width=hidden_width,
            output_width=output_width,
            bias_last=False,
        )
        self.criterion = BarlowTwinsLoss(lambda_param=redundancy_weight)
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
    summary="outputs that agree between two views and not with each other (Zbontar et al. 2021)",
    config=BarlowConfig,
    module=Barlow,
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
)
