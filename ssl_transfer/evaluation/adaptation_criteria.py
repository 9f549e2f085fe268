"""Score adaptation without labels of the target.

- Information maximisation (Shi and Sha, ICML 2012): the entropy of the mean prediction less the mean entropy of the
  predictions, in nats. Large where each prediction is confident and the classes are used evenly.
- Soft neighbourhood density (Saito et al., "Tune it the right way", ICCV 2021, equations 1 to 3): predictions of unit
  length, a softmax at temperature 0.05 over their similarities to each other, and its mean entropy.
- Importance-weighted validation (Sugiyama et al., JMLR 2007) with the control variate of You et al., "Towards accurate
  model selection in deep unsupervised domain adaptation", ICML 2019. The source's validation loss is weighted by the
  density ratio of each image's features, target to source, from a logistic regression of the domains.

`features.transferability.distance` measures the distance of the domains.

Shapes: N images of the source, M of the target, D features, K classes.
"""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

TEMPERATURE = 0.05
"""Temperature of the soft neighbourhood density (the paper, section 4.1)."""
MOST_IMAGES = 1024
"""Largest number of images of each domain, evenly picked, for densities and distances."""
STRENGTH = 1.0
"""Inverse of the regression's regularisation, scikit-learn's `C`."""


def information(logits: Tensor) -> float:
    """Compute information maximisation of logits (M, K): 0 to log K, higher is better."""
    shares = logits.double().softmax(dim=1)
    return float(_entropy(shares.mean(dim=0, keepdim=True)).sum() - _entropy(shares).mean())


def neighbourhood_density(logits: Tensor) -> float:
    """Compute the density of logits (M, K), M >= 2: 0 to log(M - 1), higher is better. Uses at most `MOST_IMAGES`."""
    shares = F.normalize(few(logits).double().softmax(dim=1), dim=1)
    similarities = shares @ shares.mT
    others = ~torch.eye(len(shares), dtype=torch.bool)
    return float(_entropy((similarities[others].view(len(shares), -1) / TEMPERATURE).softmax(dim=1)).mean())


def importance_weighted_loss(losses: Tensor, weights: Tensor) -> float:
    """Weight the source's validation losses (N,) by weights (N,): in nats, lower is better.

    The result is the mean of weighted losses with the control variate: the expected mean of the weights is 1.
    """
    weighted, weights = (losses * weights).double(), weights.double()
    variance = float(weights.var())
    if len(weights) < 2 or variance <= 0.0:
        return float(weighted.mean())
    covariance = float(((weighted - weighted.mean()) * (weights - weights.mean())).sum() / (len(weights) - 1))
    return float(weighted.mean()) - covariance / variance * (float(weights.mean()) - 1.0)


def density_ratio(source: Tensor, target: Tensor, asked: Tensor) -> Tensor:
    """Estimate the density ratio, target to source, of (A, D) features: (A,) float64.

    Args:
        source: (N, D) features that represent the source.
        target: (M, D).
        asked: the features whose ratio is returned.
    """
    source, target = few(source), few(target)
    model, scale = _domains(source, target)
    # Of the odds, what comes from unequal numbers is taken away.
    odds = torch.from_numpy(model.decision_function((asked.double() * scale).numpy()))
    return (odds.clamp(-20.0, 20.0)).exp() * (len(source) / len(target))


def few(values: Tensor, count: int = MOST_IMAGES) -> Tensor:
    """Pick at most `count` rows evenly and deterministically."""
    if len(values) <= count:
        return values
    return values[(torch.arange(count) * len(values)) // count]


def _domains(source: Tensor, target: Tensor) -> tuple[LogisticRegression, float]:
    """Fit a classifier of the domains; also return the factor of its features."""
    features = torch.cat([source, target]).double()
    scale = 1.0 / float(features.square().mean().sqrt().clamp_min(1e-12))
    model = LogisticRegression(max_iter=200, C=STRENGTH)
    with warnings.catch_warnings():
        # Where the domains part wholly there is no optimum, and any fit serves.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((features * scale).numpy(), np.repeat([0, 1], [len(source), len(target)]))
    return model, scale


def _entropy(shares: Tensor) -> Tensor:
    """Compute the entropy of distributions along the last dimension, in nats."""
    return -torch.special.xlogy(shares, shares).sum(dim=-1)
