"""Fit the head as a logistic regression on the frozen backbone's features: the probe of published results."""

import time
from typing import Any

import torch
from torch import nn

from ssl_transfer.engine.distributed import device_memory
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training import energy
from ssl_transfer.evaluation.features.extract import over_images
from ssl_transfer.evaluation.features.linear_probe import linear_probe
from ssl_transfer.evaluation.predictions.metrics import classification
from ssl_transfer.models.heads import features_for

from .phases import Training

_NEVER = -1e4
"""Bias of a class without training images."""


@torch.no_grad()
def fit_probe(training: Training) -> dict[str, Any]:
    """Fit a linear head to unaugmented images, and put it on the backbone.

    The features of each image are computed once. Validation chooses the strength (`linear_probe`).

    Returns:
        As `phases.run_phase`.

    Raises:
        InputError: the head is not linear.
    """
    if training.around is not None:
        raise InputError("--plan probe: fitted on labelled images alone. Take another plan for this command.")
    begun = time.monotonic()
    meter = energy.meter(training.runtime.device, num_processes=training.runtime.num_processes)
    device_memory.reset_peak(training.runtime.device)
    objective, dataset = training.objective, training.dataset
    head, last = objective.head, objective.head.layers[-1]
    if len(head.layers) != 1 or not isinstance(last, nn.Linear):
        raise InputError("A probe fits a linear head. Leave --head out, or take another plan.")
    objective.set_trained("head", augmented=False)
    objective.eval()
    train, validation = (
        over_images(
            lambda images: head.pooled(features_for(head, objective.backbone, objective.plain_view(images))).float(),
            dataset,
            indices,
            training.runtime,
            "features",
        )
        for indices in (training.labelled, training.validation)
    )
    labels, held_labels = dataset.labels[training.labelled], dataset.labels[training.validation]
    found = linear_probe(train, labels, validation, held_labels, num_classes=objective.num_classes)
    last.weight.copy_(found.weights)
    last.bias.copy_(found.bias.clamp_min(_NEVER))
    if found.note:
        training.say(found.note)
    scores = objective.scores_of_pooled(validation.to(training.runtime.device)).cpu()
    return {
        "validation": classification(scores, held_labels),
        "seconds": time.monotonic() - begun,
        "images_seen": len(training.labelled),
        "peak_memory_mb": device_memory.peak_mb(training.runtime.device),
        "energy_joules": meter.joules,
        "strength": found.strength,
    }
