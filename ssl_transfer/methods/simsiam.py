"""SimSiam: from one view of an image a predictor guesses what the same encoder makes of the other view.

Chen and He, "Exploring simple Siamese representation learning", CVPR 2021. With p the prediction from a view and z the
projection of the image's other view, which gets no gradient (their equations 1 and 4):

    loss = 1 - (cos(p_1, z_2) + cos(p_2, z_1)) / 2

The paper's loss lies one lower, between -1 and 1; 0 is the least it can be. No negatives, no second
encoder: predictor and stopped gradient alone keep the features apart, so watch `feature_deviation`. Heads and cosine
are lightly's. BatchNorm normalises each view apart, as in the paper. Differs from it in the optimiser's default (AdamW,
not SGD), in the heads' widths, and in that the predictor's learning rate falls with the others'.

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

from .base import Method, augmented, check_counts, deviations


@dataclass(frozen=True, kw_only=True)
class SimSiamConfig:
    """Settings of SimSiam."""

    hidden_width: int = 512
    """Width of the projector's two hidden layers (2,048 in the paper)."""
    output_width: int = 512
    """Width of the projector's output, P (2,048 in the paper)."""
    predictor_width: int = 128
    """Width of the predictor's hidden layer: a quarter of P, a bottleneck, in the paper."""
    augment: AugmentConfig = AugmentConfig()
    """What makes the two views."""


class SimSiam(Objective):
    """See the module's text.

    Args:
        backbone: trained in place.
        hidden_width: of the projector.
        output_width: P.
        predictor_width: of the predictor's hidden layer.
        augment: how views are made.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        hidden_width: int,
        output_width: int,
        predictor_width: int,
        augment: AugmentConfig,
    ) -> None:
        super().__init__()
        check_counts(hidden_width=hidden_width, output_width=output_width, predictor_width=predictor_width)
        self.backbone = backbone
        self.projector = SimSiamProjectionHead(backbone.num_features, hidden_width, output_width)
        self.predictor = SimSiamPredictionHead(output_width, predictor_width, output_width)
        self.criterion = NegativeCosineSimilarity()
        self._augment = augment

    def similarity(self, predictions: tuple[Tensor, Tensor], projections: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of both views' predictions and projections, (B, P) each, in float32; projections get no gradient."""
        (first, second), (first_target, second_target) = predictions, projections
        with torch.autocast(first.device.type, enabled=False):
            one = self.criterion(first.float(), second_target.detach().float())
            other = self.criterion(second.float(), first_target.detach().float())
            return 1.0 + (one + other) / 2.0

    def forward(self, batch: Batch) -> Output:
        """The loss over both views of each image, each once predicted from and once predicted."""
        features = [self.backbone(view) for view in augmented(batch, self.backbone, self._augment).chunk(2)]
        first, second = (self.projector(part) for part in features)
        loss = self.similarity((self.predictor(first), self.predictor(second)), (first, second))
        return Output(loss, deviations(torch.cat(features), torch.cat([first, second])))


METHOD = Method(
    summary="predicting the same encoder's other view, without its gradient (Chen and He 2021)",
    config=SimSiamConfig,
    module=SimSiam,
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
)
