"""Supervised: cross-entropy on labels, with all, a part or nothing of the backbone trained.

Shapes: B images, D features, K classes, S pixels a side.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_transfer.data.transforms.augment import AugmentConfig, augment, evaluation_view
from ssl_transfer.data.transforms.mixup import mix
from ssl_transfer.engine.training.objective import Batch, Objective, Output, scalar
from ssl_transfer.models.backbones import Backbone
from ssl_transfer.models.heads import Head, class_scores, features_for
from ssl_transfer.models.trainable import Selection, apply, hold, select

Function = Callable[[Tensor], Tensor]


class Seen(NamedTuple):
    """What one forward in training saw and said."""

    images: Tensor
    """(B, C, S, S): the views, mixed where that is asked for; what lies at the boundary where features are taken."""
    targets: Tensor
    """(B, K) float32, shares of the classes."""
    features: Tensor
    """(B, D), or the maps that the head takes."""
    logits: Tensor
    """(B, K) float32."""


class Supervised(Objective):
    """A backbone with a head. Frozen means frozen: weights, buffers and dropout of a frozen layer do not move.

    Args:
        backbone: any initialisation.
        head: scores of K classes, or one for two.
        augment: what happens to training images.
        num_classes: K.
        label_smoothing: 0 to below 1.
        mixup: as in `data.mixing.mix`.
        cutmix: the same.
        class_weights: (K,) float32, what an image of each class counts; None: 1.
        keep_statistics: whether BatchNorm layers of the backbone keep their statistics while their weights are trained.
    """

    class_weights: Tensor

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        *,
        augment: AugmentConfig,
        num_classes: int,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        class_weights: Tensor | None = None,
        keep_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        weights = torch.ones(num_classes) if class_weights is None else class_weights
        self.register_buffer("class_weights", weights, persistent=False)
        self._augment, self.num_classes, self._label_smoothing = augment, num_classes, label_smoothing
        # Micro-batches would be mixed among themselves.
        self.loss_over_batch = bool(mixup or cutmix)
        self._mixup, self._cutmix, self._keep_statistics = mixup, cutmix, keep_statistics
        self._selection = select(backbone, "all")
        self.augmented = True
        self._from_boundary: Function | None = None

    def set_trained(self, trained: str, *, augmented: bool = True) -> Selection:
        """Free what `trained` names and freeze the rest. To be called before an optimiser is built.

        Args:
            trained: as in `models.selection.select`.
            augmented: whether training images are augmented; otherwise they are what evaluation sees.
        """
        selection = select(self.backbone, trained)
        self.head.requires_grad_(True)
        apply(selection, self.backbone)
        if not selection.parameters:
            self.backbone.eval()
        self._selection, self.augmented, self._from_boundary = selection, augmented, None
        return selection

    def take_features(self, from_boundary: Function | None) -> None:
        """From now on batches hold features at a frozen boundary, and this leads from them to what the head takes."""
        self._from_boundary = from_boundary

    def train(self, mode: bool = True) -> "Supervised":
        """What is frozen stays in evaluation mode: its statistics and its dropout are frozen too."""
        self.training = mode
        self.head.train(mode)
        # A backbone that is wholly frozen has been in that mode since it was frozen: there may be a thousand modules.
        if self._selection.parameters:
            self.backbone.train(mode)
            hold(self._selection, self.backbone)
            if self._keep_statistics:
                for norm in batch_norms(self.backbone):
                    norm.eval()
        return self

    def forward(self, batch: Batch) -> Output:
        """Mean cross-entropy of a batch whose images all have labels."""
        seen = self.look(batch, self.targets(batch.labels))
        return self.compared(seen.logits, seen.targets)

    def look(self, batch: Batch, targets: Tensor) -> Seen:
        """One forward of a batch in training; `targets` are (B, K) float32, shares of the classes."""
        if self._from_boundary is None:
            images, targets = self.mixed(self.view(batch.images, batch.keys), targets, batch.keys)
            with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self._selection.parameters)):
                features = features_for(self.head, self.backbone, images)
        else:
            images = batch.images
            features = self._from_boundary(images)
        return Seen(images, targets, features, self.scores(features))

    def targets(self, labels: Tensor) -> Tensor:
        """Labels (B,) -> (B, K) float32."""
        return F.one_hot(labels, self.num_classes).to(torch.float32)

    def mixed(self, images: Tensor, targets: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Views (B, C, S, S) and their targets (B, K), mixed where that is asked for."""
        if self._mixup or self._cutmix:
            return mix(images, targets, keys, mixup=self._mixup, cutmix=self._cutmix)
        return images, targets

    def compared(self, logits: Tensor, targets: Tensor) -> Output:
        """The mean of `cross_entropies`, and the accuracy."""
        # A mean over images, not over weights: so processes and micro-batches add up.
        loss = self.cross_entropies(logits, targets).sum() / len(logits)
        return Output(loss, {"accuracy": scalar((logits.argmax(dim=1) == targets.argmax(dim=1)).float())})

    def cross_entropies(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What each class of each image adds to its cross-entropy, smoothed and weighted: all (B, K) float32."""
        smoothed = targets * (1.0 - self._label_smoothing) + self._label_smoothing / self.num_classes
        return -(smoothed * self.class_weights * F.log_softmax(logits, dim=1))

    def view(self, images: Tensor, keys: Tensor) -> Tensor:
        """What the backbone sees of stored images (B, C, H, W) in training: (B, C, S, S)."""
        if self.augmented:
            return augment(images, keys, view=0, size=self.backbone.spec.image_size, config=self._augment)
        return self.plain_view(images)

    def plain_view(self, images: Tensor) -> Tensor:
        """What the backbone sees of stored images (B, C, H, W) in evaluation: (B, C, S, S)."""
        spec = self.backbone.spec
        return evaluation_view(images, size=spec.image_size, interpolation=spec.interpolation)

    def logits(self, images: Tensor) -> Tensor:
        """Stored images (B, C, H, W) in 0..1 -> (B, K) float32, without augmentation."""
        return self.scores(features_for(self.head, self.backbone, self.plain_view(images)))

    def scores(self, features: Tensor) -> Tensor:
        """What the head takes -> (B, K) float32."""
        return self.scores_of_pooled(self.head.pooled(features))

    def scores_of_pooled(self, pooled: Tensor) -> Tensor:
        """What the head's layers see, (B, D') -> (B, K) float32."""
        return class_scores(self.head.layers(pooled))


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Its BatchNorm layers of any kind."""
    return [inner for inner in module.modules() if isinstance(inner, nn.modules.batchnorm._BatchNorm)]
