"""BYOL: from one view of an image a predictor guesses what a slowly moving encoder makes of the other view.

Grill, Strub, Altche, Tallec, Richemond, Buchatskaya, Doersch, Pires, Guo, Azar, Piot, Kavukcuoglu, Munos and Valko,
"Bootstrap your own latent", NeurIPS 2020. With q the prediction from a view, z' the target encoder's projection of the
image's other view, and both of unit length (their equation 2), summed over the two roles that the views can have:

    loss = || q - z' ||^2 = 2 - 2 <q, z'>

There are no negatives. Without the predictor, or with a target that follows at once, everything would collapse into
one point. BatchNorm normalises each view apart, as in the paper. Differs from it in the optimiser's default (AdamW, not
LARS: our batches are small), in the heads' widths, and in crops of at least 20 % of the image, not 8 %.

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

from .base import Method, View, check_counts, deviations, mlp
from .momentum_encoder import FIRST_VIEW, SECOND_VIEW, check_momentum, copied, follow, momentum_at, view_pair


@dataclass(frozen=True, kw_only=True)
class BYOLConfig:
    """Settings of BYOL."""

    momentum: float = 0.99
    """How much of the target encoder stays at each step, at the start; it rises to 1 along a cosine. The paper has
    0.996 for its longest training."""
    hidden_width: int = 1024
    """Width of the hidden layers of projector and predictor (4,096 in the paper)."""
    output_width: int = 256
    """Width of the projector's output, P (256 in the paper)."""
    augment: AugmentConfig = FIRST_VIEW
    """What makes the first view (the paper's table 6: always blurred)."""
    second_augment: AugmentConfig = SECOND_VIEW
    """What makes the second view (seldom blurred, now and then solarised)."""


class BYOL(Objective):
    """See the module's text.

    Args:
        backbone: trained in place; it is the online encoder's.
        momentum: at the start.
        hidden_width: of both heads.
        output_width: P.
        augment: how the first view is made.
        second_augment: how the second view is made.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        momentum: float,
        hidden_width: int,
        output_width: int,
        augment: AugmentConfig,
        second_augment: AugmentConfig,
    ) -> None:
        super().__init__()
        check_momentum(momentum)
        check_counts(hidden_width=hidden_width, output_width=output_width)
        self.backbone = backbone
        self.projector = mlp((backbone.num_features, hidden_width, output_width))
        self.predictor = mlp((output_width, hidden_width, output_width))
        self.target_backbone, self.target_projector = copied(backbone), copied(self.projector)
        self.criterion = NegativeCosineSimilarity()
        self._momentum, self._augments = momentum, (augment, second_augment)

    def regression(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The squared distance of unit vectors, (B, P) each, in float32, averaged over images."""
        with torch.autocast(prediction.device.type, enabled=False):
            return 2.0 + 2.0 * self.criterion(prediction.float(), target.float())

    def forward(self, batch: Batch) -> Output:
        """The loss over both views of each image, each once predicted from and once predicted."""
        views = view_pair(batch, self.backbone, *self._augments)
        features = [self.backbone(view) for view in views]
        outputs = [self.projector(part) for part in features]
        first, second = (self.predictor(part) for part in outputs)
        with torch.no_grad():
            first_target, second_target = (self.target_projector(self.target_backbone(view)) for view in views)
        loss = self.regression(first, second_target) + self.regression(second, first_target)
        return Output(loss, deviations(torch.cat(features), torch.cat(outputs)))

    def after_step(self, progress: float) -> None:
        """Move the target encoder's weights towards the online encoder's."""
        pairs = (self.target_backbone, self.backbone), (self.target_projector, self.projector)
        follow(*pairs, momentum=momentum_at(progress, start=self._momentum))


METHOD = Method(
    summary="predicting a slowly moving encoder's view (Grill et al. 2020)",
    config=BYOLConfig,
    module=BYOL,
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
    views=lambda settings: (View(settings.augment), View(settings.second_augment)),
)
