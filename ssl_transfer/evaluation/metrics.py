"""Metrics of predictions."""

import torch.nn.functional as F
from torch import Tensor


def classification(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy (0..1) and log-loss (nats) of logits (N, K) for labels (N,)."""
    return {
        "accuracy": float((logits.argmax(dim=1) == labels).double().mean()),
        "log_loss": float(F.cross_entropy(logits.double(), labels)),
    }
