"""Measure the quality of a representation without labels.

- effective rank (RankMe): exp(-sum_k p_k log p_k) with p_k = s_k / sum_j s_j + e over the singular values s of the
  features (Garrido, Balestriero, Najman and LeCun, "RankMe", ICML 2023, equation 1). 1: all features lie on one line;
  at most min(N, D), so that runs are compared at equal N.
- feature deviation: see `methods.base.feature_deviation`. 0: one point; near 1: spread over the sphere.
- alignment: mean of |f(x) - f(y)|^2 over two views x, y of an image; uniformity: log of the mean of
  exp(-2 |f(x) - f(y)|^2) over pairs of images; of unit features, lower is better in both (Wang and Isola,
  "Understanding contrastive representation learning through alignment and uniformity", ICML 2020, section 4).

Wang and Isola use the views of the training. Here all methods get the same mild crops, so that they can be compared.

Shapes: N images, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_transfer.data.dataset import Dataset
from ssl_transfer.data.transforms.augment import AugmentConfig, augment
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.randomness import sample_keys
from ssl_transfer.methods.base import feature_deviation
from ssl_transfer.models.backbones import Backbone

from .extract import extract

SEED = 0
"""Seed of the crops: the same in every run, whatever its seed."""
CROPS = AugmentConfig(crop_scale=(0.5, 1.0), flip=0.0, jitter=0.0, grey=0.0, blur=0.0)
"""The two views of alignment: no flip and no colour jitter, which change the meaning of some images."""
RANK_FLOOR = 1e-7
"""e in the formula of the effective rank, as in the paper."""


def representation(
    backbone: Backbone, dataset: Dataset, indices: Tensor, features: Tensor, runtime: Runtime
) -> dict[str, float]:
    """Measure `effective_rank`, `feature_deviation`, `alignment` and `uniformity` on these images.

    Args:
        backbone: in any mode; its mode is restored.
        dataset: holds the pixels.
        indices: (N,) int64, two or more.
        features: (N, D), from `features.extract`, of these images.
        runtime: the device.
    """
    first, second = (_crops(backbone, dataset, indices, runtime, view) for view in range(2))
    return {
        "effective_rank": effective_rank(features),
        "feature_deviation": float(feature_deviation(features)),
        "alignment": alignment(first, second),
        "uniformity": uniformity(features),
    }


def effective_rank(features: Tensor) -> float:
    """Compute RankMe of (N, D) features, 1 to min(N, D); 1 too where all are zero."""
    # From the smaller Gram matrix, which is far less work; what float64 loses of its eigenvalues lies below e.
    values = features.double()
    gram = values.T @ values if values.shape[0] > values.shape[1] else values @ values.T
    singular = torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt()
    total = singular.sum()
    if not float(total) > 0.0:
        return 1.0
    share = singular / total + RANK_FLOOR
    return float(torch.exp(-(share * share.log()).sum()))


def alignment(first: Tensor, second: Tensor) -> float:
    """Compute the mean squared distance of the unit features of two views, each (N, D): 0 to 4."""
    return float((F.normalize(first.float(), dim=1) - F.normalize(second.float(), dim=1)).square().sum(dim=1).mean())


def uniformity(features: Tensor) -> float:
    """Compute the log of the mean Gaussian potential of all pairs of (N, D) features, N >= 2: -8 to 0 (one point)."""
    unit = F.normalize(features.float(), dim=1)
    # Of unit vectors |a - b|^2 = 2 - 2 a.b; each pair stands above the diagonal and below it.
    potential = torch.exp(4.0 * (unit @ unit.T).clamp(max=1.0) - 4.0)
    count = len(unit)
    pairs = potential.double().sum() - potential.diagonal().double().sum()
    return float(torch.log(pairs / (count * (count - 1))))


def _crops(backbone: Backbone, dataset: Dataset, indices: Tensor, runtime: Runtime, number: int) -> Tensor:
    """Extract pooled features (N, D) of the first or second crop of each image."""

    def crop(view: Tensor, samples: Tensor) -> Tensor:
        keys = sample_keys(SEED, 0, samples).to(view.device)
        return augment(view, keys, view=number, size=view.shape[2], config=CROPS)

    return extract(backbone, dataset, indices, runtime, change=crop)
