"""Adversarial examples: changes of an image, too small to matter to a person, that change what a classifier says.

No pixel moves by more than epsilon, and none leaves 0..1 (what lies outside already stays where it is):

- FGSM (Goodfellow, Shlens and Szegedy 2015, section 4): x + epsilon sign(gradient of the loss at the true class).
- PGD (Madry et al. 2018, equation 3): smaller steps of that kind from a random point near the image, each brought back
  within epsilon. Their size is 2.5 epsilon / steps, so that the border can be reached from anywhere.

A targeted attack goes down the loss of a class of its choice instead. Changes are made to what the model sees: after
the image was brought to its size, before its normalisation.

captum.robust has both and the tests hold these against it. Two things stand against its own: it takes gradients below
1e-6 for zero, so that a model that is sure of itself looks robust, and its random start comes from torch's global
generator instead of being a function of the image.

Shapes: B images, C channels, S pixels a side, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_transfer.engine.randomness import uniform
from ssl_transfer.models.classifier import Classifier

Scores = Callable[[Tensor], Tensor]
"""Views (B, C, S, S) in 0..1 -> class scores (B, K), in evaluation mode."""
_START = 0
"""The stream of randomness that the start is drawn from."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A way to attack."""

    name: Literal["fgsm", "pgd"]
    targeted: bool
    """Whether it goes towards a class of its choice instead of away from the true one."""
    steps: int = 1
    """Of PGD."""

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{self.name.upper()}{', targeted' if self.targeted else ''}"


def scores_of(classifier: Classifier) -> Scores:
    """What a classifier says of views, with gradients where they are asked for."""
    return lambda views: classifier.scores(classifier.features(views))


def attacked(scores: Scores, views: Tensor, classes: Tensor, keys: Tensor, *, attack: Attack, epsilon: float) -> Tensor:
    """Adversarial examples of these views, of the same shape.

    Args:
        scores: of the model under attack.
        views: (B, C, S, S) in 0..1.
        classes: (B,) int64: the true classes or, of a targeted attack, those to go to.
        keys: (B,) int64, the images' random keys.
        attack: which one.
        epsilon: most that a pixel moves, in units of 0..1.
    """
    low = torch.maximum(views - epsilon, views.clamp(max=0.0))
    high = torch.minimum(views + epsilon, views.clamp(min=1.0))
    found, step = views, epsilon
    if attack.name == "pgd":
        step = 2.5 * epsilon / attack.steps
        start = uniform(keys, _START, views[0].numel()).view_as(views)
        found = torch.clamp(views + epsilon * (2.0 * start - 1.0), low, high)
    way = -1.0 if attack.targeted else 1.0
    for _ in range(attack.steps if attack.name == "pgd" else 1):
        found = torch.clamp(found + way * step * _gradient(scores, found, classes).sign(), low, high)
    return found


@torch.enable_grad()
def _gradient(scores: Scores, views: Tensor, classes: Tensor) -> Tensor:
    """Of each image's own cross-entropy, (B, C, S, S)."""
    views = views.detach().requires_grad_()
    # In float32 the gradient of a sure answer is zero, and an attack that stands still looks like robustness.
    loss = F.cross_entropy(scores(views).double(), classes, reduction="sum")
    return torch.autograd.grad(loss, views)[0]


@torch.no_grad()
def least_likely(scores: Scores, views: Tensor, labels: Tensor) -> Tensor:
    """(B,) the wrong class that each looks least like: the hardest to go to (Kurakin, Goodfellow and Bengio 2017).

    Args:
        scores: of the model.
        views: (B, C, S, S) in 0..1.
        labels: (B,) int64, the true classes, which no attack goes to.
    """
    return scores(views).scatter(1, labels[:, None], torch.inf).argmin(dim=1)
