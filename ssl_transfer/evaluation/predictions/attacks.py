"""Generate adversarial examples: imperceptible changes of an image that change a classifier's prediction.

No pixel moves by more than epsilon, and none leaves 0..1 (values already outside are not moved further out):

- FGSM (Goodfellow, Shlens and Szegedy 2015, section 4): x + epsilon sign(gradient of the loss at the true class).
- PGD (Madry et al. 2018, equation 3): smaller steps of that kind from a random point near the image, each projected
  back within epsilon. Their size is 2.5 epsilon / steps, so that the border can be reached from anywhere.

A targeted attack descends the loss of a class of its choice instead. Changes are made to the model's input: after
resizing, before normalisation.

captum.robust has both, and the tests compare with it. It is not used for two reasons. It treats gradients below 1e-6 as
zero, so that a confident model looks robust. Its random start comes from torch's global generator instead of being a
function of the image.

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
"""Stream of randomness of the start."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Kind of attack and its settings."""

    name: Literal["fgsm", "pgd"]
    targeted: bool
    """True: move towards a class of its choice. False: away from the true one."""
    steps: int = 1
    """Steps of PGD."""

    @property
    def label(self) -> str:
        """Return the name in tables."""
        return f"{self.name.upper()}{', targeted' if self.targeted else ''}"


def scores_of(classifier: Classifier) -> Scores:
    """Return the classifier's scores as a function of views, with gradients where enabled."""
    return lambda views: classifier.scores(classifier.features(views))


def attacked(scores: Scores, views: Tensor, classes: Tensor, keys: Tensor, *, attack: Attack, epsilon: float) -> Tensor:
    """Generate adversarial examples of these views, of the same shape.

    Args:
        scores: of the model under attack.
        views: (B, C, S, S) in 0..1.
        classes: (B,) int64: the true classes or, for a targeted attack, the target classes.
        keys: (B,) int64, the images' random keys.
        attack: kind and settings.
        epsilon: largest change of a pixel, in units of 0..1.
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
    """Compute the gradient of each image's own cross-entropy, (B, C, S, S)."""
    views = views.detach().requires_grad_()
    # In float32 the gradient of a confident prediction is zero, and an attack without steps looks like robustness.
    loss = F.cross_entropy(scores(views).double(), classes, reduction="sum")
    return torch.autograd.grad(loss, views)[0]


@torch.no_grad()
def least_likely(scores: Scores, views: Tensor, labels: Tensor) -> Tensor:
    """Return the wrong class of lowest score (B,): the hardest target (Kurakin, Goodfellow and Bengio 2017).

    Args:
        scores: of the model.
        views: (B, C, S, S) in 0..1.
        labels: (B,) int64, the true classes, which are excluded.
    """
    return scores(views).scatter(1, labels[:, None], torch.inf).argmin(dim=1)
