"""Measure accuracy under common corruptions.

Hendrycks and Dietterich 2019; `data.transforms.corruptions` lists the differences. The result is accuracy, not their
mCE, which divides by AlexNet's errors.
"""

from collections.abc import Callable, Mapping
from typing import TypedDict

import torch
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.transforms.corruptions import SEVERITIES, STRENGTHS, corrupt
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.evaluation.features.extract import extract
from ssl_transfer.models.backbones import Backbone


class CorruptedAccuracy(TypedDict):
    """Line of `corruptions.csv`."""

    classifier: str
    corruption: str
    severity: int
    accuracy: float


def corrupted_accuracies(
    backbone: Backbone,
    classifiers: Mapping[str, Callable[[Tensor], Tensor]],
    dataset: Dataset,
    indices: Tensor,
    runtime: Runtime,
    *,
    seed: int,
) -> list[CorruptedAccuracy]:
    """Measure each classifier at each corruption and severity, a row each; the backbone runs thirty times an image.

    Args:
        backbone: computes features.
        classifiers: by name, features (N, D) -> logits (N, K).
        dataset: holds the images.
        indices: (N,) int64, of labelled ones.
        runtime: the device.
        seed: of the noise, which is a function of it and of the image.
    """
    labels, rows = dataset.labels[indices], []
    for name in STRENGTHS:
        for severity in SEVERITIES:

            def change(views: Tensor, samples: Tensor, name: str = name, severity: int = severity) -> Tensor:
                keys = sample_keys(seed, 0, samples).to(views.device)
                return corrupt(views, keys, name=name, severity=severity)

            features = extract(backbone, dataset, indices, runtime, change=change)
            for classifier, logits in classifiers.items():
                with torch.inference_mode():
                    correct = logits(features).argmax(dim=1) == labels
                rows.append(
                    CorruptedAccuracy(
                        classifier=classifier,
                        corruption=name,
                        severity=severity,
                        accuracy=float(correct.double().mean()),
                    )
                )
    return rows
