"""Compute metrics of predictions.

A class that is absent from the measured images has no recall and no F1, and is left out of every average over classes.
An image that is predicted as it still counts as a mistake of its own class.

Shapes: N images, K classes. Logits are (N, K), or (N, 1): of two classes, one logit for the second.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sklearn import metrics
from torch import Tensor

from ssl_transfer.engine.errors import InputError

NUM_BINS = 15
"""Bins of confidence in the calibration error, as in Guo et al. 2017, section 5."""
REPORT_COLUMNS = ("class", "precision", "recall", "f1", "support")


def class_logits(logits: Tensor) -> Tensor:
    """Convert logits to float64 (N, K) on the CPU, K at least 2: one logit z for two classes becomes (0, z)."""
    logits = logits.detach().cpu().double()
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def classification(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute the metrics of a split.

    Args:
        logits: (N, K) or (N, 1), float.
        labels: (N,) int64 in 0..K-1.

    Returns:
        `accuracy`, `balanced_accuracy` (mean recall of the classes that are present), `macro_f1` (mean F1 of the same),
        `calibration_error` and, for more than five classes, `top_5_accuracy`, all 0..1; `log_loss` in nats.

    Raises:
        InputError: no images.
    """
    if not len(labels):
        raise InputError("There are no labelled images to measure on. Give the split some, or another --data.")
    scores, labels = class_logits(logits), labels.cpu()
    log_loss = float(F.cross_entropy(scores, labels))
    predicted, present = scores.argmax(dim=1), labels.unique().numpy()
    hits, support, guesses = (
        np.bincount(held.numpy(), minlength=scores.shape[1])[present]
        for held in (labels[predicted == labels], labels, predicted)
    )
    found = {
        "accuracy": float((predicted == labels).double().mean()),
        "balanced_accuracy": float((hits / support).mean()),
        "macro_f1": float((2.0 * hits / (support + guesses)).mean()),
        "log_loss": log_loss,
        "calibration_error": calibration_error(scores, labels),
    }
    if scores.shape[1] > 5:
        best = scores.topk(5, dim=1).indices
        found["top_5_accuracy"] = float((best == labels[:, None]).any(dim=1).double().mean())
    return found


def confidence_bins(logits: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> tuple[np.ndarray, ...]:
    """Bin images by confidence, in bins of equal width that include their upper edge.

    Returns:
        For each bin the number of images, their accuracy, and their mean confidence, each (num_bins,) float64; the last
        two are nan where a bin is empty.
    """
    confidence, predicted = torch.softmax(class_logits(logits), dim=1).max(dim=1)
    correct = (predicted == labels.cpu()).double()
    place = ((confidence * num_bins).ceil().long() - 1).clamp(0, num_bins - 1)
    counts = torch.bincount(place, minlength=num_bins).double()
    accuracy = torch.bincount(place, weights=correct, minlength=num_bins) / counts
    mean_confidence = torch.bincount(place, weights=confidence, minlength=num_bins) / counts
    return counts.numpy(), accuracy.numpy(), mean_confidence.numpy()


def calibration_error(logits: Tensor, labels: Tensor, num_bins: int = NUM_BINS) -> float:
    """Compute the expected calibration error, 0..1 (Guo et al. 2017, eq. 3)."""
    counts, accuracy, confidence = confidence_bins(logits, labels, num_bins)
    # An empty bin has no gap.
    return float(np.nansum(counts / counts.sum() * np.abs(accuracy - confidence)))


def confusion(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Count the images of each true class (row) by predicted class (column): (K, K) int64."""
    scores = class_logits(logits)
    return metrics.confusion_matrix(
        labels.cpu().numpy(), scores.argmax(dim=1).numpy(), labels=np.arange(scores.shape[1])
    )


def per_class_report(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> list[dict[str, str | float | int]]:
    """Report each class in one row of the columns `REPORT_COLUMNS`.

    Nan marks an undefined value: recall and F1 of a class without images, precision of one that is never predicted.
    """
    matrix = confusion(logits, labels)
    hits, support, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        precision, recall = hits / predicted, hits / support
        f1 = np.where(support > 0, 2.0 * hits / (support + predicted), np.nan)
    columns = (classes, precision.tolist(), recall.tolist(), f1.tolist(), support.tolist())
    return [dict(zip(REPORT_COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]
