"""Pretrain with SimSiam: predict the projection of one view from the other view, with one encoder.

Chen and He, "Exploring simple Siamese representation learning", CVPR 2021. p is the prediction from a view and z the
projection of the image's other view, without gradient (equations 1 and 4):

    loss = 1 - (cos(p_1, z_2) + cos(p_2, z_1)) / 2

The paper's loss is lower by one, between -1 and 1; here the least is 0. There are no negatives and no second encoder:
only the predictor and the stopped gradient prevent a collapse, so watch `feature_deviation`. Heads and cosine are
lightly's. BatchNorm normalises each view apart, as in the paper.

Differences: AdamW as the default optimiser (SGD in the paper), narrower heads, and a learning rate of the predictor
that falls with the others.

Shapes: B images of this process, D features, P projector width.
"""

from dataclasses import dataclass

import torch
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.objective import Batch, Objective, Output
from ssl_transfer.models.backbones import Backbone

from .base import Method, check_counts, deviations, make_views


@dataclass(frozen=True, kw_only=True)
class SimSiamConfig:
    """Set up SimSiam."""

    hidden_width: int = 512
    """Width of the projector's two hidden layers (2,048 in the paper)."""
    output_width: int = 512
    """Width of the projector's output, P (2,048 in the paper)."""
    predictor_width: int = 128
    """Width of the predictor's hidden layer: a quarter of P, a bottleneck, in the paper."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of both views."""

    def __post_init__(self) -> None:
        check_counts(
            hidden_width=self.hidden_width, output_width=self.output_width, predictor_width=self.predictor_width
        )


class SimSiam(Objective):
    """Train a backbone in place with SimSiam."""

    def __init__(self, backbone: Backbone, config: SimSiamConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.projector = SimSiamProjectionHead(backbone.num_features, config.hidden_width, config.output_width)
        self.predictor = SimSiamPredictionHead(config.output_width, config.predictor_width, config.output_width)
        self.criterion = NegativeCosineSimilarity()

    def similarity(self, predictions: tuple[Tensor, Tensor], projections: tuple[Tensor, Tensor]) -> Tensor:
        """Compute the loss of both views in float32; all are (B, P), and projections get no gradient."""
        (first, second), (first_target, second_target) = predictions, projections
        with torch.autocast(first.device.type, enabled=False):
            one = self.criterion(first.float(), second_target.detach().float())
            other = self.criterion(second.float(), first_target.detach().float())
            return 1.0 + (one + other) / 2.0

    def forward(self, batch: Batch) -> Output:
        """Compute the loss with each view once as the source and once as the target."""
        augment = self.config.augment
        views = make_views(batch, self.backbone.spec.image_size, augment, augment)
        features = [self.backbone(view) for view in views]
        first, second = (self.projector(part) for part in features)
        loss = self.similarity((self.predictor(first), self.predictor(second)), (first, second))
        return Output(loss, deviations(torch.cat(features), torch.cat([first, second])))


METHOD = Method(
    summary="predicting the same encoder's other view, without its gradient (Chen and He 2021)",
    config=SimSiamConfig,
    module=SimSiam,
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
)
