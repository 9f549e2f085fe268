"""Fit a linear probe: logistic regression on frozen features.

Validation chooses the regularisation from a logarithmic grid, as in CLIP (Radford et al. 2021, appendix A.3) and SimCLR
(Chen et al. 2020, appendix B.8). Unlike in both, the chosen classifier is not trained again with the validation images.
It minimises

    mean cross-entropy + strength / 2 * squared norm of the weights

over features that are divided by one number, their root mean square. Dividing by the deviation per dimension of a tiny
sample would ruin a sparse backbone. With the mean, not the sum, a strength has the same effect at any number of images.

Shapes: N images, D features, K classes.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ssl_transfer.engine.errors import InputError

STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(4, -13, -1))
"""100 to 1e-6, strongest first: each solution starts the search for the next."""
_MAX_ITERATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Fitted classifier: `logits` applies it."""

    weights: Tensor
    """(K, D) float64, for the backbone's unscaled features."""
    bias: Tensor
    """(K,) float64; -inf for a class without training images, which is never predicted."""
    strength: float
    """Regularisation that validation chose."""
    validation_accuracy: float
    """Accuracy of the choice, 0..1: the best of the grid, so slightly optimistic for other images."""
    note: str
    """Warning for the user, or empty."""

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits: (M, D) -> (M, K) float64."""
        return features.double() @ self.weights.mT + self.bias


def linear_probe(
    features: Tensor,
    labels: Tensor,
    validation: Tensor,
    validation_labels: Tensor,
    *,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
) -> LinearProbe:
    """Fit the probe; among strengths of equal validation accuracy the log-loss decides, then the stronger one.

    Args:
        features: (N, D) of the training images, with `labels` (N,) int64.
        labels: of two classes at least.
        validation: (M, D) of the validation images, with `validation_labels` (M,).
        validation_labels: int64.
        num_classes: K.
        strengths: the grid, strongest first.

    Raises:
        InputError: no validation images, or training images of one class only.
    """
    present = labels.unique()
    if len(present) < 2 or not len(validation):
        raise InputError("A linear probe needs training images of two classes or more, and validation images.")
    scale = 1.0 / float(features.double().square().mean().sqrt().clamp_min(1e-12))
    # The bias is not regularised, so that taking the mean away changes no solution; it is found in fewer steps.
    mean = features.double().mean(dim=0)
    inputs, targets = ((features.double() - mean) * scale).numpy(), labels.numpy()
    # lbfgs is deterministic; sklearn's C weighs the sum of the losses.
    model = LogisticRegression(max_iter=_MAX_ITERATIONS, warm_start=True, tol=1e-5)
    candidates: list[tuple[tuple[float, float], LinearProbe]] = []
    unfinished = []
    for strength in strengths:
        model.set_params(C=1.0 / (strength * len(targets)))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(inputs, targets)
        if any(issubclass(item.category, ConvergenceWarning) for item in caught):
            unfinished.append(strength)
        coefficients = model.coef_ * scale
        weights, bias = _expanded(coefficients, model.intercept_ - coefficients @ mean.numpy(), present, num_classes)
        probe = LinearProbe(weights=weights, bias=bias, strength=strength, validation_accuracy=0.0, note="")
        logits = probe.logits(validation)
        accuracy = float((logits.argmax(dim=1) == validation_labels).double().mean())
        candidates.append(((accuracy, -float(F.cross_entropy(logits, validation_labels))), probe))
    # The first of equals, which is the strongest.
    (accuracy, _), chosen = max(candidates, key=lambda candidate: candidate[0])
    note = _note(chosen.strength, strengths, unfinished)
    return replace(chosen, validation_accuracy=accuracy, note=note)


def _expanded(
    coefficients: np.ndarray, intercepts: np.ndarray, present: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Expand to one row a class: sklearn has one row for two classes, and none for classes without training images."""
    rows, values = torch.from_numpy(coefficients), torch.from_numpy(intercepts)
    if len(rows) == 1:
        rows, values = torch.cat([torch.zeros_like(rows), rows]), torch.cat([torch.zeros_like(values), values])
    weights = torch.zeros(num_classes, rows.shape[1], dtype=torch.float64)
    bias = torch.full((num_classes,), -torch.inf, dtype=torch.float64)
    weights[present], bias[present] = rows, values
    return weights, bias


def _note(strength: float, strengths: Sequence[float], unfinished: Sequence[float]) -> str:
    if strength in unfinished:
        return f"warning: the linear probe of strength {strength:.2g} had not converged in {_MAX_ITERATIONS} steps."
    if len(strengths) > 1 and strength in (strengths[0], strengths[-1]):
        return f"warning: the strength {strength:.2g} that validation chose for the linear probe is the grid's last."
    return ""
