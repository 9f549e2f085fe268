"""Pretrain with SimCLR: contrast two views of each image with all other views.

Chen, Kornblith, Norouzi and Hinton, "A simple framework for contrastive learning of visual representations", ICML
2020. z are the projections of the 2N views of a batch, i and j two views of one image, sim the cosine and t the
temperature (equation 1):

    loss(i, j) = -log( exp(sim(z_i, z_j) / t) / sum over k != i of exp(sim(z_i, z_k) / t) )

The loss is lightly's, over the batch of all processes with the exact gradient, in float32 under any precision.

Differences: the default optimiser is AdamW, because batches here are small. The paper has LARS with weight decay 1e-6
and learning rate 0.3 * batch / 256 for batches of 256 to 8192 (`--optimizer.name lars`).

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

from .base import Method, check_projector, deviations, make_views, projector


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig:
    """Set up SimCLR."""

    temperature: float = 0.2
    """Divides the cosines; a lower one gives the nearest negatives more weight. Chen et al. found 0.1 to 0.5 best, by
    batch."""
    projector_layers: int = 2
    """Linear layers of the projector, 2 in the paper; its second version has 3 (Chen et al. 2020b)."""
    hidden_width: int = 512
    """Width of the projector's hidden layers; the paper's is the backbone's own, 2048."""
    output_width: int = 128
    """Width of the projector's output, P."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of both views."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"temperature {self.temperature}: it must be above 0, usually 0.1 to 0.5.")
        check_projector(self)


class SimCLR(Objective):
    """Train a backbone in place with SimCLR."""

    loss_over_batch = True

    def __init__(self, backbone: Backbone, config: SimCLRConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.projector = projector(backbone.num_features, config)
        self.criterion = NTXentLoss(temperature=config.temperature, gather_distributed=collectives.num_processes() > 1)

    def forward(self, batch: Batch) -> Output:
        """Compute the loss with both views of each image as anchors."""
        augment = self.config.augment
        views = make_views(batch, self.backbone.spec.image_size, augment, augment)
        features = self.backbone(torch.cat(views))
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
