"""A run's own classifier: its backbone with the head that was trained on it, in the order of the data's classes.

Shapes: B images, C channels, S pixels a side, K classes, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.io import weight_files

from .backbones import Backbone
from .heads import Head, HeadConfig, class_scores, features_for, make_head


@dataclass(frozen=True)
class Classifier:
    """What a run knows of its classes, in evaluation mode. Nothing here takes or gives gradients by itself."""

    backbone: Backbone
    head: Head
    order: Tensor
    """(K,) int64 on the CPU: where the classes of the data stand among those that the head knows."""

    def to(self, device: torch.device) -> "Classifier":
        """Move both parts, in place."""
        self.backbone.to(device)
        self.head.to(device)
        return self

    def features(self, views: Tensor) -> Tensor:
        """What the head takes of views (B, C, S, S) in 0..1."""
        return features_for(self.head, self.backbone, views)

    def scores(self, features: Tensor) -> Tensor:
        """What the head takes -> (B, K) float32, in the data's order of classes."""
        return class_scores(self.head(features))[:, self.order.to(features.device)]


class Scoring(nn.Module):
    """A run's model as one module, the normalisation in it: images in 0..1 to scores, or to features without a head.

    Args:
        backbone: of the run.
        classifier: on this backbone; None gives features.
    """

    def __init__(self, backbone: Backbone, classifier: Classifier | None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, None if classifier is None else classifier.head
        self._classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, S, S) float32 in 0..1 -> (B, K) scores, or (B, D) features, float32."""
        if self._classifier is None:
            return self.backbone(images).float()
        return self._classifier.scores(self._classifier.features(images))


def has_head(path: Path) -> bool:
    """Whether a run's folder holds a classifier, not only a backbone.

    Raises:
        InputError: it holds neither.
    """
    weight_files.export_folder(path, "backbone")
    return (path / "head" / "head.json").is_file()


def load_classifier(path: Path, backbone: Backbone, classes: Sequence[str], *, remedy: str) -> Classifier:
    """The classifier of a run on its backbone.

    Args:
        path: the run's folder, which holds a head (`has_head`).
        backbone: loaded from there; it is put into evaluation mode.
        classes: of the data, in its order.
        remedy: what the message about other classes ends with.

    Raises:
        InputError: it knows other classes, or does not fit the backbone.
    """
    weights, description = weight_files.load_weights(path, "head")
    known = list(description["classes"])
    if set(known) != set(classes):
        lacking, unknown = sorted(set(known) - set(classes)), sorted(set(classes) - set(known))
        differences = [
            f"{what} {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
            for what, names in (("only the head knows", lacking), ("only the data has", unknown))
            if names
        ]
        raise InputError(f"{path}: its head was trained for other classes: {'; '.join(differences)}. {remedy}")
    try:
        head = make_head(HeadConfig(**description["head"]), backbone, len(known))
        head.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{path}: the weights of its head do not fit: {error}") from error
    return Classifier(backbone.eval(), head.eval(), torch.tensor([known.index(name) for name in classes]))
