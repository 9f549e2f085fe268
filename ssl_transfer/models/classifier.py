"""Classify with a trained head on its backbone, in the order of the data's classes.

Shapes: B images, C channels, S pixels a side, K classes, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_transfer.engine.errors import InputError, reason_of
from ssl_transfer.engine.io.weight_files import WeightFile

from .backbones import Backbone
from .heads import Head, HeadConfig, class_scores, features_for, make_head


@dataclass(frozen=True)
class Classifier:
    """A backbone with its trained head, in evaluation mode."""

    backbone: Backbone
    head: Head
    order: Tensor
    """(K,) int64 on the CPU: position of each class of the data among those of the head."""

    def to(self, device: torch.device) -> "Classifier":
        """Move both parts, in place."""
        self.backbone.to(device)
        self.head.to(device)
        return self

    def features(self, views: Tensor) -> Tensor:
        """Compute the input of the head for views (B, C, S, S) in 0..1."""
        return features_for(self.head, self.backbone, views)

    def scores(self, features: Tensor) -> Tensor:
        """Compute scores (B, K) float32, in the data's order of classes, from the input of the head."""
        return class_scores(self.head(features))[:, self.order.to(features.device)]


class Scoring(nn.Module):
    """A model as one module, normalisation included: images in 0..1 to scores, or to features without a head.

    Args:
        backbone: of the run.
        classifier: on this backbone; None gives features.
    """

    def __init__(self, backbone: Backbone, classifier: Classifier | None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, None if classifier is None else classifier.head
        self._classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Compute (B, K) scores, or (B, D) features, float32, of images (B, C, S, S) float32 in 0..1."""
        if self._classifier is None:
            return self.backbone(images).float()
        return self._classifier.scores(self._classifier.features(images))


def load_classifier(file: WeightFile, backbone: Backbone, classes: Sequence[str], *, remedy: str) -> Classifier:
    """Load an exported head onto its backbone.

    Args:
        file: the head's weights and description.
        backbone: that the head was trained on; set to evaluation mode.
        classes: of the data, in the data's order.
        remedy: last sentence of the message about other classes.

    Raises:
        InputError: the head was trained for other classes, or does not fit the backbone.
    """
    weights, known = file.tensors(), list(file.description["classes"])
    run = file.folder.parent
    if set(known) != set(classes):
        lacking, unknown = sorted(set(known) - set(classes)), sorted(set(classes) - set(known))
        differences = [
            f"{what} {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
            for what, names in (("only the head knows", lacking), ("only the data has", unknown))
            if names
        ]
        raise InputError(f"{run}: its head was trained for other classes: {'; '.join(differences)}. {remedy}")
    try:
        head = make_head(HeadConfig(**file.description["head"]), backbone, len(known))
        head.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{run}: the weights of its head do not fit: {reason_of(error)}") from error
    return Classifier(backbone.eval(), head.eval(), torch.tensor([known.index(name) for name in classes]))
