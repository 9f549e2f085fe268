"""Map features to points in the plane (t-SNE).

Van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 2008, by scikit-learn, with cosine distances. In such a
map neighbourhoods are meaningful; distances between groups, their sizes and its axes are not.

Shapes: N images, D features.
"""

import warnings

import numpy as np
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits
from torch import Tensor

LEAST_IMAGES = 10
"""Least number of images; with fewer there are no neighbourhoods to show."""
_PERPLEXITY = 30.0
_ITERATIONS = 500


def embed(features: Tensor, *, seed: int) -> np.ndarray:
    """Embed (N, D) features as (N, 2) float64, within -1..1. Constant features are all at the centre.

    Args:
        features: N at least `LEAST_IMAGES`.
        seed: equal seeds give equal maps.
    """
    values = features.double().numpy()
    # Rows of zeros have no direction, and stay where they are.
    unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    if float(np.ptp(unit, axis=0).max()) < 1e-6:
        return np.zeros((len(unit), 2))
    perplexity = min(_PERPLEXITY, (len(unit) - 1) / 3)
    start = "pca" if unit.shape[1] > 1 else "random"
    model = TSNE(perplexity=perplexity, init=start, max_iter=_ITERATIONS, random_state=seed)
    # The squared distance of unit vectors is twice that of their cosine. On several threads sums come out otherwise
    # each time, and a map with them.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        points = model.fit_transform(unit).astype(np.float64)
    centred = points - points.mean(axis=0)
    return centred / np.abs(centred).max()
