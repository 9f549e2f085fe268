"""Estimate a difference over runs and test images at once: both are samples, crossed with each other.

Each run classifies the same test images, so the difference d_ui of unit u at image i is mu + a_u + b_i + e_ui. The
variance of its mean is var(a) / U + var(b) / N + var(e) / (U N). The variance of the unit means estimates the first and
last term, the variance of the image means the second and last: the sum of both, less the last term, is unbiased. Its
degrees of freedom are Satterthwaite's, "An approximate distribution of estimates of variance components", Biometrics
Bulletin 2 (1946). The same decomposition with a bootstrap is Owen, "The pigeonhole bootstrap", Annals of Applied
Statistics 1 (2007).

With two or three units their variance may be underestimated so much that these degrees of freedom are those of the
images. The interval is therefore never shorter than the t interval over units alone.

Shapes: S seeds, U units (pretrainings or seeds), N test images.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from ssl_transfer.evaluation.metric_properties import Limits

from .estimates import IMAGES, Estimate, sample_of, unit_means
from .significance import CONFIDENCE


def crossed_estimate(
    differences: np.ndarray, *, within: Limits, pretrainings: Sequence[int] | None = None
) -> Estimate | None:
    """Estimate the mean difference with an interval over runs and test images.

    Args:
        differences: (S, N) one row a seed, one column a test image.
        within: limits of a difference.
        pretrainings: of each seed; None where the seeds share no pretraining.

    Returns:
        The estimate; None with fewer than two units or images, or where all units agree.
    """
    units = unit_means(np.asarray(differences, dtype=float), pretrainings)
    count, num_images = units.shape
    if count < 2 or num_images < 2:
        return None
    unit_mean, image_mean, mean = units.mean(axis=1), units.mean(axis=0), float(units.mean())
    residual = units - unit_mean[:, None] - image_mean + mean
    freedoms = np.array([count - 1, num_images - 1, (count - 1) * (num_images - 1)])
    squares = np.array(
        [
            np.square(unit_mean - mean).sum() / count,
            np.square(image_mean - mean).sum() / num_images,
            np.square(residual).sum() / (count * num_images),
        ]
    )
    terms = squares / freedoms
    if terms[0] < 1e-24:
        return None
    variance = max(float(terms[0] + terms[1] - terms[2]), float(terms[:2].max()))
    freedom = variance**2 / float((np.square(terms) / freedoms).sum())
    reach, p_value = _t_interval(mean, variance, freedom)
    of_units = _t_interval(mean, float(terms[0]), count - 1)
    reach, p_value = max(reach, of_units[0]), max(p_value, of_units[1])
    return Estimate(
        mean=mean,
        low=max(within[0], mean - reach),
        high=min(within[1], mean + reach),
        p_value=p_value,
        count=len(differences),
        pretrainings=0 if pretrainings is None else len(set(pretrainings)),
        over=f"{sample_of(pretrainings)} and {IMAGES}",
    )


def _t_interval(mean: float, variance: float, freedom: float) -> tuple[float, float]:
    """Return half the length of Student's 95 % interval, and the two-sided p value of mean 0."""
    error = math.sqrt(variance)
    reach = error * float(special.stdtrit(freedom, (1.0 + CONFIDENCE) / 2.0))
    return reach, 2.0 * float(special.stdtr(freedom, -abs(mean) / error))
