"""Train a head on labels by cross-entropy, with all, a part or nothing of the backbone.

With labels y as shares of K classes, label smoothing e, class weights w and predicted probabilities p:

    loss = -mean over images of  sum over k of  w_k (y_k (1 - e) + e / K) log p_k

Shapes: B images, D features, K classes, S pixels a side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_transfer.data.transforms.augment import SUPERVISED_DEFAULT, AugmentConfig, augment, evaluation_view
from ssl_transfer.data.transforms.mixup import mix
from ssl_transfer.engine.training.objective import Batch, Objective, Output, scalar
from ssl_transfer.models.backbones import Backbone
from ssl_transfer.models.heads import Head, class_scores, features_for
from ssl_transfer.models.trainable import Selection, apply, hold, select

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """Set up the cross-entropy; the transfer recipe has the ranges and the help of these settings."""

    augment: AugmentConfig = SUPERVISED_DEFAULT
    """Augmentation of training images."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes, 0 to below 1."""
    mixup: float = 0.0
    """Parameter of mixup's Beta distribution (`data.transforms.mixup.mix`); 0 is off."""
    cutmix: float = 0.0
    """Parameter of cutmix's Beta distribution; 0 is off."""


class TrainingPass(NamedTuple):
    """Hold inputs and outputs of one forward in training."""

    images: Tensor
    """(B, C, S, S): the views, perhaps mixed; or the features at a frozen boundary."""
    targets: Tensor
    """(B, K) float32, shares of the classes."""
    features: Tensor
    """(B, D), or maps: the input of the head."""
    logits: Tensor
    """(B, K) float32."""


class Supervised(Objective):
    """Train a head on a backbone. Weights, buffers and dropout of frozen layers do not change.

    Args:
        backbone: with any initial weights.
        head: logits of K classes, or one logit for two.
        config: settings of images and loss.
        num_classes: K.
        class_weights: (K,) float32, weight of each class; None is 1 for all.
    """

    class_weights: Tensor

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        config: SupervisedConfig,
        *,
        num_classes: int,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.head, self.num_classes = backbone, head, num_classes
        weights = torch.ones(num_classes) if class_weights is None else class_weights
        self.register_buffer("class_weights", weights, persistent=False)
        # Micro-batches would be mixed among themselves.
        self.loss_over_batch = bool(config.mixup or config.cutmix)
        self._selection, self._keeps_statistics = select(backbone, "all"), False
        self.augmented = True
        self._from_boundary: Function | None = None

    def set_trained(self, trained: str, *, augmented: bool = True, keep_statistics: bool = False) -> Selection:
        """Unfreeze a selection of layers and freeze the rest. Call it before an optimiser is built.

        Args:
            trained: as in `models.trainable.select`.
            augmented: augment training images; False gives the plain views of evaluation.
            keep_statistics: keep BatchNorm's statistics in layers of the backbone whose weights are trained.
        """
        selection = select(self.backbone, trained)
        self.head.requires_grad_(True)
        apply(selection, self.backbone)
        if not selection.parameters:
            self.backbone.eval()
        self._selection, self.augmented, self._from_boundary = selection, augmented, None
        self._keeps_statistics = keep_statistics
        return selection

    def take_features(self, from_boundary: Function | None) -> None:
        """Take batches of features at a frozen boundary, with this function from there to the head; None ends it."""
        self._from_boundary = from_boundary

    def train(self, mode: bool = True) -> "Supervised":
        """Set the mode; frozen parts stay in evaluation mode, with their statistics and dropout."""
        self.training = mode
        self.head.train(mode)
        # A wholly frozen backbone is in evaluation mode already; it may have a thousand modules.
        if self._selection.parameters:
            self.backbone.train(mode)
            hold(self._selection, self.backbone)
            if self._keeps_statistics:
                for norm in batch_norms(self.backbone):
                    norm.eval()
        return self

    def forward(self, batch: Batch) -> Output:
        """Compute the mean cross-entropy of a batch whose images all have labels."""
        seen = self.training_pass(batch, self.targets(batch.labels))
        return self.cross_entropy(seen.logits, seen.targets)

    def training_pass(self, batch: Batch, targets: Tensor) -> TrainingPass:
        """Run a batch through backbone and head in training; `targets` are (B, K) float32, shares of the classes."""
        if self._from_boundary is None:
            images, targets = self.mix_views(self.view(batch.images, batch.keys), targets, batch.keys)
            with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self._selection.parameters)):
                features = features_for(self.head, self.backbone, images)
        else:
            images = batch.images
            features = self._from_boundary(images)
        return TrainingPass(images, targets, features, self.scores(features))

    def targets(self, labels: Tensor) -> Tensor:
        """Encode labels (B,) as shares of the classes, (B, K) float32."""
        return F.one_hot(labels, self.num_classes).to(torch.float32)

    def mix_views(self, images: Tensor, targets: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Apply mixup or cutmix to views (B, C, S, S) and their targets (B, K), where either is on."""
        if self.config.mixup or self.config.cutmix:
            return mix(images, targets, keys, mixup=self.config.mixup, cutmix=self.config.cutmix)
        return images, targets

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Output:
        """Return the mean over images of summed `cross_entropies`, and the accuracy."""
        # A mean over images, not over weights: sums over processes and micro-batches stay exact.
        loss = self.cross_entropies(logits, targets).sum() / len(logits)
        return Output(loss, {"accuracy": scalar((logits.argmax(dim=1) == targets.argmax(dim=1)).float())})

    def cross_entropies(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the smoothed and weighted cross-entropy of each image and class, (B, K) float32."""
        smoothing = self.config.label_smoothing
        smoothed = targets * (1.0 - smoothing) + smoothing / self.num_classes
        return -(smoothed * self.class_weights * F.log_softmax(logits, dim=1))

    def view(self, images: Tensor, keys: Tensor) -> Tensor:
        """Make training views (B, C, S, S) of stored images (B, C, H, W)."""
        if self.augmented:
            return augment(images, keys, view=0, size=self.backbone.spec.image_size, config=self.config.augment)
        return self.plain_view(images)

    def plain_view(self, images: Tensor) -> Tensor:
        """Make evaluation views (B, C, S, S) of stored images (B, C, H, W)."""
        spec = self.backbone.spec
        return evaluation_view(images, size=spec.image_size, interpolation=spec.interpolation)

    def logits(self, images: Tensor) -> Tensor:
        """Return logits (B, K) float32 of stored images (B, C, H, W) in 0..1, without augmentation."""
        return self.scores(features_for(self.head, self.backbone, self.plain_view(images)))

    def scores(self, features: Tensor) -> Tensor:
        """Return logits (B, K) float32 of the head's inputs."""
        return self.scores_of_pooled(self.head.pooled(features))

    def scores_of_pooled(self, pooled: Tensor) -> Tensor:
        """Return logits (B, K) float32 of pooled and scaled features (B, D')."""
        return class_scores(self.head.layers(pooled))


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """List the BatchNorm layers of any kind."""
    return [inner for inner in module.modules() if isinstance(inner, nn.modules.batchnorm._BatchNorm)]
