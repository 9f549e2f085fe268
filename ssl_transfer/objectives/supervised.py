"""Supervised: cross-entropy on labels, with the backbone frozen or not.

Shapes: B images, K classes.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.augment import AugmentConfig, augment, evaluation_view
from ..engine.contract import Batch, Objective, Output, scalar
from ..models.backbones import Backbone, freeze
from ..models.heads import LinearHead

Trained = Literal["head", "all"]


class Supervised(Objective):
    """A backbone with a head. Frozen means frozen: neither weights nor buffers of a frozen backbone move.

    Args:
        backbone: any initialisation.
        head: takes the backbone's features.
        augment: what happens to training images.
        label_smoothing: 0 to below 1.
    """

    def __init__(
        self, backbone: Backbone, head: LinearHead, *, augment: AugmentConfig, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self._augment, self._label_smoothing = augment, label_smoothing
        self._frozen = False

    def set_trained(self, trained: Trained) -> None:
        """Freeze the backbone (`head`) or free it (`all`). To be called before an optimiser is built."""
        self._frozen = trained == "head"
        self.head.requires_grad_(True)
        if self._frozen:
            freeze(self.backbone)
        else:
            self.backbone.requires_grad_(True)

    def train(self, mode: bool = True) -> "Supervised":
        """A frozen backbone stays in evaluation mode: its statistics and its dropout are frozen too."""
        super().train(mode)
        if self._frozen:
            self.backbone.eval()
        return self

    def forward(self, batch: Batch) -> Output:
        """Mean cross-entropy of a batch whose images all have labels."""
        size = self.backbone.spec.image_size
        images = augment(batch.images, batch.keys, view=0, size=size, config=self._augment)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            features = self.backbone(images)
        logits = self.head(features).float()
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self._label_smoothing)
        return Output(loss, {"accuracy": scalar((logits.argmax(dim=1) == batch.labels).float())})

    def logits(self, images: Tensor) -> Tensor:
        """Stored images (B, C, H, W) in 0..1 -> (B, K) float32, without augmentation."""
        return self.head(self.backbone(evaluation_view(images, size=self.backbone.spec.image_size))).float()
