"""SimCLR: two views of an image attract each other and repel every other view in the batch.

Chen, Kornblith, Norouzi and Hinton, "A simple framework for contrastive learning of visual representations", ICML
2020. With z the projections of 2N views, i and j two views of one image and sim the cosine (their equation 1):

    loss(i, j) = -log( exp(sim(z_i, z_j) / t) / sum over k != i of exp(sim(z_i, z_k) / t) )

The loss is lightly's, over the batch of all processes with the exact gradient, in float32 whatever the precision.
Differs from the paper in the optimiser's default: AdamW, because our batches are small. The paper's is LARS with weight
decay 1e-6 and learning rate 0.3 * batch / 256 for batches of 256 to 8192 (`--optimizer.name lars`).

Shapes: B images of this process, D features, P projector width.
"""

import math
from dataclasses import dataclass

import torch
from lightly.loss import NTXentLoss

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.objective import Batch, Objective, Output
from ssl_transfer.models.backbones import Backbone

from .base import Method, augmented, deviations, projector


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig:
    """Settings of SimCLR."""

    temperature: float = 0.2
    """Divides the cosines; lower looks harder at the nearest negatives. Chen et al. found 0.1 to 0.5 best, by batch."""
    projector_layers: int = 2
    """Linear layers of the projector, 2 in the paper; its second version has 3 (Chen et al. 2020b)."""
    hidden_width: int = 512
    """Width of the projector's hidden layers; the paper's is the backbone's own, 2048."""
    output_width: int = 128
    """Width of the projector's output, P."""
    augment: AugmentConfig = AugmentConfig()
    """What makes the two views."""


class SimCLR(Objective):
    """See the module's text.

    Args:
        backbone: trained in place.
        temperature: t above.
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
        temperature: float,
        projector_layers: int,
        hidden_width: int,
        output_width: int,
        augment: AugmentConfig,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"temperature {temperature}: it must be above 0, usually 0.1 to 0.5.")
        self.backbone = backbone
        self.projector = projector(
            backbone.num_features, layers=projector_layers, hidden_width=hidden_width, output_width=output_width
        )
        self.criterion = NTXentLoss(temperature=temperature, gather_distributed=collectives.num_processes() > 1)
        self._augment = augment

    def forward(self, batch: Batch) -> Output:
        """The loss over both views of each image, each in the role of the anchor."""
        features = self.backbone(augmented(batch, self.backbone, self._augment))
        outputs = self.projector(features)
        first, second = outputs.chunk(2)
        with torch.autocast(batch.images.device.type, enabled=False):
            loss = self.criterion(first.float(), second.float())
        return Output(loss, deviations(features, outputs))


METHOD = Method(
    summary="contrast of two views over the batch (Chen et al. 2020)",
    config=SimCLRConfig,
    module=SimCLR,
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
    # Equal similarities leave a guess among 2N - 1 views.
    equal_loss=lambda batch_size: math.log(2 * batch_size - 1),
)
