"""Diagnose frozen features before a transfer: similarity and domain distance.

- similarity: linear CKA of centred features X and Y, |Y'X|^2 / (|X'X| |Y'Y|) in Frobenius norms (Kornblith, Norouzi,
  Lee and Hinton, "Similarity of neural network representations revisited", ICML 2019, section 3). 1: the same up to
  rotation and scale. That estimate rises with the width of the features: with as many dimensions as images, independent
  noise has about 0.5. Here its three terms are unbiased estimates of the Hilbert-Schmidt independence criterion (Song,
  Smola, Gretton, Bedo and Borgwardt, JMLR 2012, equation 5). So noise has about 0 at any width, possibly a little
  below.
- distance: the proxy A-distance 2 (1 - 2 e), where e is the error of a linear classifier that separates two sets of
  images by their features (Ben-David, Blitzer, Crammer and Pereira, "Analysis of representations for domain
  adaptation", NIPS 2006). 0: not separable; 2: fully separable. e is cross-validated here.

Shapes: N images, D features.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from torch import Tensor

COLUMNS = ("arm", "backbone", "measure", "reference", "value", "num_images")
"""Columns of `diagnosis.csv`. Measures: `similarity` to the arm in `reference`, `distance` from pool to validation
images, `separability` (a linear probe's accuracy on validation images)."""
_FOLDS = 5
_LEAST_IMAGES = 4
"""Least number of images: the unbiased terms divide by N - 3."""


def similarity(first: Tensor, second: Tensor) -> float:
    """Compute linear CKA of (N, D) and (N, E) features of the same images: at most 1, about 0 for independent ones.

    nan with fewer than four images, and where features do not vary: the similarity of a collapsed representation is
    undefined.
    """
    if len(first) < _LEAST_IMAGES:
        return float("nan")
    ours, theirs = _gram(first), _gram(second)
    own, other = _dependence(ours, ours), _dependence(theirs, theirs)
    if not (own > 0.0 and other > 0.0):
        return float("nan")
    return float(_dependence(ours, theirs) / (own * other).sqrt())


def _gram(features: Tensor) -> Tensor:
    """Compute the Gram matrix (N, N) float64 of centred features at unit scale, with a zero diagonal.

    All zero where features do not vary.
    """
    centred = features.double() - features.double().mean(dim=0)
    # What is left of equal features are the last bits of their mean.
    if float(centred.abs().max()) <= 1e-9 * float(features.abs().max()):
        return torch.zeros(len(features), len(features), dtype=torch.float64)
    gram = (centred / centred.square().mean().sqrt()) @ centred.T
    return gram - torch.diag(gram.diagonal())


def _dependence(first: Tensor, second: Tensor) -> Tensor:
    """Estimate the dependence of two (N, N) matrices with zero diagonals (Song et al.): () float64.

    The estimate lacks a factor that depends on N alone.
    """
    count = len(first)
    rows, columns = first.sum(dim=1), second.sum(dim=1)
    whole = rows.sum() * columns.sum() / ((count - 1) * (count - 2))
    return (first * second).sum() + whole - 2.0 / (count - 2) * (rows @ columns)


def distance(first: Tensor, second: Tensor, *, seed: int) -> float:
    """Compute the proxy A-distance of (N, D) and (M, D) features, 0 to 2; nan with fewer than five images on a side.

    The larger set is reduced to the size of the smaller one, so that chance is one half.
    """
    count = min(len(first), len(second))
    if count < _FOLDS:
        return float("nan")
    generator = np.random.default_rng(seed)
    taken = [features[np.sort(generator.permutation(len(features))[:count])] for features in (first, second)]
    features = torch.cat(taken).double()
    centred = features - features.mean(dim=0)
    # By one number, as in the linear probe: deviations of single dimensions would make noise of a sparse backbone.
    inputs = (centred / centred.square().mean().sqrt().clamp_min(1e-12)).numpy()
    sides = np.repeat([0, 1], count)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    accuracy = float(np.mean(cross_val_score(LogisticRegression(C=0.1, max_iter=200), inputs, sides, cv=folds)))
    return max(0.0, 2.0 * (2.0 * accuracy - 1.0))
