"""Mix images of a batch with one another, and their labels with them: Mixup and CutMix.

Mixup (Zhang et al. 2018): lambda x + (1 - lambda) x'. CutMix (Yun et al. 2019): a box of x' on x, and lambda the
remaining share of x. lambda is drawn from Beta(a, a), one for a batch, and x' is the batch in reverse order, as in
timm. The mixture is a function of the batch's keys: the same at any start.

Shapes: B images, C channels, S pixels a side, K classes.
"""

import math

from torch import Tensor

from ssl_transfer.engine.randomness import uniform

_STREAM = 1 << 20
"""Stream of the keys, far from the numbers of views."""


def mix(images: Tensor, targets: Tensor, keys: Tensor, *, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mix images and targets.

    Args:
        images: (B, C, S, S); not changed.
        targets: (B, K) float32, shares of the classes.
        keys: (B,) int64.
        mixup: Beta's parameter; 0 is off.
        cutmix: the same. With both, every batch draws one of them.
    """
    choice, centre_x, centre_y, seed = uniform(keys[:1], _STREAM, 4)[0].tolist()
    boxed = cutmix > 0.0 and (mixup == 0.0 or choice < 0.5)
    share = _beta(cutmix if boxed else mixup, seed)
    mixed = images.clone()
    if boxed:
        size = images.shape[-1]
        half = 0.5 * size * math.sqrt(1.0 - share)
        left, right = (round(min(max(centre_x * size + side, 0), size)) for side in (-half, half))
        top, bottom = (round(min(max(centre_y * size + side, 0), size)) for side in (-half, half))
        mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        # Cut off at the edges, the box may be smaller than what was drawn.
        share = 1.0 - (right - left) * (bottom - top) / size**2
    else:
        mixed.mul_(share).add_(images.flip(0), alpha=1.0 - share)
    return mixed, share * targets + (1.0 - share) * targets.flip(0)


def _beta(parameter: float, draw: float) -> float:
    """Draw a number of Beta(a, a), by the inverse of its distribution function."""
    from scipy import stats

    return float(stats.beta.ppf(draw, parameter, parameter))
