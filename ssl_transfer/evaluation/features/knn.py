"""Classify by nearest neighbours in feature space, without any training."""

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import Tensor


def knn_accuracy(
    features: Tensor, labels: Tensor, queries: Tensor, query_labels: Tensor, *, k: int = 20, temperature: float = 0.07
) -> float:
    """Compute the accuracy of a vote of the k nearest features by cosine (Wu et al. 2018, section 3.4).

    A neighbour of similarity s votes with weight exp(s / temperature).

    Args:
        features: (N, D), with `labels` (N,).
        labels: int64.
        queries: (M, D), with `query_labels` (M,).
        query_labels: int64.
        k: neighbours; at most N are used.
        temperature: of the votes.
    """
    classifier = KNeighborsClassifier(
        n_neighbors=min(k, len(features)),
        metric="cosine",
        weights=lambda distance: np.exp((1.0 - distance) / temperature),
    )
    classifier.fit(features.numpy(), labels.numpy())
    return float(classifier.score(queries.numpy(), query_labels.numpy()))


def nearest(features: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k nearest features of each query, the nearest first: cosines and positions, (M, k) each.

    Args:
        features: (N, D).
        queries: (M, D).
        k: at most N are found.
    """
    search = NearestNeighbors(n_neighbors=min(k, len(features)), metric="cosine").fit(features.numpy())
    distances, positions = search.kneighbors(queries.numpy())
    return torch.from_numpy(1.0 - distances), torch.from_numpy(positions)
