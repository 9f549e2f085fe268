"""Pretrain with BYOL: predict a momentum encoder's projection of one view from the other view.

Grill, Strub, Altche, Tallec, Richemond, Buchatskaya, Doersch, Pires, Guo, Azar, Piot, Kavukcuoglu, Munos and Valko,
"Bootstrap your own latent", NeurIPS 2020. q is the prediction from a view and z' the target encoder's projection of the
image's other view, both of unit length (equation 2). The loss is the sum over both assignments of the views:

    loss = || q - z' ||^2 = 2 - 2 <q, z'>

There are no negatives. Without the predictor, or with a target of momentum 0, the features would collapse into one
point. BatchNorm normalises each view apart, as in the paper.

Differences: AdamW as the default optimiser (LARS in the paper; batches here are small), narrower heads, and crops of at
least 20 % of the image (8 % in the paper).

Shapes: B images of this process, D features, P projector width.
"""

from dataclasses import dataclass

import torch
from lightly.loss import NegativeCosineSimilarity
from torch import Tensor

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.training.objective import Batch, Objective, Output
from ssl_transfer.models.backbones import Backbone

from .base import Method, View, check_counts, deviations, make_views, mlp
from .momentum_encoder import FIRST_VIEW, SECOND_VIEW, check_momentum, momentum_at, momentum_copy, momentum_update


@dataclass(frozen=True, kw_only=True)
class BYOLConfig:
    """Set up BYOL."""

    momentum: float = 0.99
    """Share of the target encoder that stays at each step, at the start; it rises to 1 along a cosine. The paper has
    0.996 for its longest training."""
    hidden_width: int = 1024
    """Width of the hidden layers of projector and predictor (4,096 in the paper)."""
    output_width: int = 256
    """Width of the projector's output, P (256 in the paper)."""
    augment: AugmentConfig = FIRST_VIEW
    """Augmentation of the first view (the paper's table 6: always blurred)."""
    second_augment: AugmentConfig = SECOND_VIEW
    """Augmentation of the second view (seldom blurred, now and then solarised)."""

    def __post_init__(self) -> None:
        check_momentum(self.momentum)
        check_counts(hidden_width=self.hidden_width, output_width=self.output_width)


class BYOL(Objective):
    """Train a backbone in place, as the online encoder of BYOL."""

    def __init__(self, backbone: Backbone, config: BYOLConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.projector = mlp((backbone.num_features, config.hidden_width, config.output_width))
        self.predictor = mlp((config.output_width, config.hidden_width, config.output_width))
        self.target_backbone, self.target_projector = momentum_copy(backbone), momentum_copy(self.projector)
        self.criterion = NegativeCosineSimilarity()

    def regression(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the squared distance of unit vectors, (B, P) each, in float32, averaged over images."""
        with torch.autocast(prediction.device.type, enabled=False):
            return 2.0 + 2.0 * self.criterion(prediction.float(), target.float())

    def forward(self, batch: Batch) -> Output:
        """Compute the loss with each view once as the source and once as the target."""
        size = self.backbone.spec.image_size
        views = make_views(batch, size, self.config.augment, self.config.second_augment)
        features = [self.backbone(view) for view in views]
        outputs = [self.projector(part) for part in features]
        first, second = (self.predictor(part) for part in outputs)
        with torch.no_grad():
            first_target, second_target = (self.target_projector(self.target_backbone(view)) for view in views)
        loss = self.regression(first, second_target) + self.regression(second, first_target)
        return Output(loss, deviations(torch.cat(features), torch.cat(outputs)))

    def after_step(self, progress: float) -> None:
        """Update the target encoder, an exponential moving average of the online encoder."""
        pairs = (self.target_backbone, self.backbone), (self.target_projector, self.projector)
        momentum_update(*pairs, momentum=momentum_at(progress, start=self.config.momentum))


METHOD = Method(
    summary="predicting a slowly moving encoder's view (Grill et al. 2020)",
    config=BYOLConfig,
    module=BYOL,
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
    views=lambda config: (View(config.augment), View(config.second_augment)),
)
