"""Calibrate confidences by temperature scaling; predictions stay the same.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017, section 4.2: logits are divided
by the temperature T that minimises the log-loss of the validation images. The test images are not used.

Shapes: N images, K classes; logits (N, K), or (N, 1) for two classes.
"""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from ssl_transfer.engine.console.formatting import counted

from .metrics import calibration_error, class_logits

LEAST, MOST = 0.1, 100.0
"""Range of temperatures. Where validation images are all classified correctly, the log-loss falls without limit as T
goes to 0. The first mistake on other images would then have an enormous loss."""
FEW = 50
"""Number of validation images below which a warning is given."""


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """Fitted temperature, with a warning where it is unreliable."""

    value: float
    """T: above 1 the model was overconfident, below 1 underconfident."""
    note: str = ""
    """Warning for the user, or empty."""


def fit_temperature(logits: Tensor, labels: Tensor) -> Temperature:
    """Fit the temperature of least log-loss, in float64.

    Args:
        logits: of the validation images, (N, K) or (N, 1).
        labels: (N,) int64.

    Returns:
        1 where there are no images, or none is better. So the fitted T never raises the log-loss of these images.
    """
    if not len(labels):
        return Temperature(value=1.0, note="warning: no validation images to fit a temperature on; it stays 1.")
    scores, labels, images = class_logits(logits), labels.cpu(), counted(len(labels), "validation image")

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(scores / math.exp(log_temperature), labels))

    # Convex in 1/T, so it has one minimum in log T too, and a search within bounds finds it.
    found = minimize_scalar(loss, bounds=(math.log(LEAST), math.log(MOST)), method="bounded", options={"xatol": 1e-7})
    if not found.fun < loss(0.0) - 1e-12:
        return Temperature(value=1.0)
    edges = ((LEAST, "least", "too well"), (MOST, "most", "no better than by chance"))
    for edge, end, why in edges:
        # Towards an edge without a minimum the loss may be flat long before it.
        if loss(math.log(edge)) <= found.fun + 1e-9:
            note = (
                f"warning: the {images} are classified {why} to fit a temperature; it stops at {edge:g}, the {end} "
                "that is tried."
            )
            return Temperature(value=edge, note=note)
    few = f"warning: the temperature is fitted on {images} only."
    return Temperature(value=math.exp(found.x), note=few if len(labels) < FEW else "")


def scaled(logits: Tensor, labels: Tensor, temperature: Temperature) -> dict[str, float]:
    """Compute the scaled metrics of a split: `log_loss_scaled`, `calibration_error_scaled`, `temperature`."""
    scores = class_logits(logits) / temperature.value
    return {
        "log_loss_scaled": float(F.cross_entropy(scores, labels.cpu())),
        "calibration_error_scaled": calibration_error(scores, labels),
        "temperature": temperature.value,
    }
