"""Feature alignment: distributions of source and target features brought together by a distance between them.

MMD with several kernels (Long et al., "Learning transferable features with deep adaptation networks", ICML 2015):

    mean k(s, s') + mean k(t, t') - 2 mean k(s, t),    k(x, y) = sum over u of exp(-|x - y|^2 / (bandwidth 2^u))

with the mean squared distance between all pairs of the batch as the bandwidth, and u from -2 to 2 for five kernels. It
is the biased estimate, which is never negative, and divides by the number of kernels, so that it lies in 0..2.

CORAL (Sun and Saenko, "Deep CORAL", ECCV 2016 workshops, equations 1 to 3): |C_s - C_t|^2 / (4 D^2), of the covariances
in the squared Frobenius norm.

Both are of the global batch: features are gathered from all processes.

Shapes: N images of the source, M of the target, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.objective import Output, scalar

from .domain_adaptation import Adaptation, Domains, Term
from .supervised import Supervised


@dataclass(frozen=True, kw_only=True)
class MMDConfig:
    """Settings of MMD."""

    weight: float = 1.0
    """Of the distance, beside the cross-entropy."""
    kernels: int = 5
    """Gaussian kernels, each of twice the bandwidth of the one before, around the mean squared distance."""


@dataclass(frozen=True, kw_only=True)
class CORALConfig:
    """Settings of CORAL."""

    weight: float = 1.0
    """Of the distance, beside the cross-entropy; the two should end at about the same size (the paper, section 4)."""


def mmd(source: Tensor, target: Tensor, *, kernels: int = 5) -> Tensor:
    """(N, D) and (M, D) float32 -> () float32, 0..2."""
    count = len(source)
    rows = torch.cat([source, target])
    # From differences of rows, not of large norms, which float32 would round; without (N + M, N + M, D) in memory.
    # In float64, as the root is taken and squared again.
    distances = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    distances = distances.to(rows.dtype)
    bandwidth = distances.detach().sum() / (len(rows) * (len(rows) - 1))
    exponents = torch.arange(kernels, device=rows.device) - (kernels - 1) / 2
    widths = (bandwidth * 2.0**exponents).clamp_min(1e-12)
    similarities = torch.exp(-distances[:, :, None] / widths).mean(dim=2)
    within = similarities[:count, :count].mean() + similarities[count:, count:].mean()
    return within - 2.0 * similarities[:count, count:].mean()


def coral(source: Tensor, target: Tensor) -> Tensor:
    """(N, D) and (M, D) float32, two images of each at least -> () float32."""
    difference = _covariance(source) - _covariance(target)
    return difference.square().sum() / (4.0 * source.shape[1] ** 2)


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(dim=0)
    return centred.mT @ centred / (len(features) - 1)


class MMD(Term):
    """See the module."""

    def __init__(
        self, _supervised: Supervised, _num_features: int, _num_classes: int, *, weight: float, kernels: int
    ) -> None:
        super().__init__()
        _check(weight)
        if kernels < 1:
            raise InputError(f"kernels {kernels}: it must be 1 or more.")
        self._weight, self._kernels = weight, kernels

    def forward(self, domains: Domains) -> Output:
        """The weighted distance; the metric is without the weight."""
        with torch.autocast(domains.source.device.type, enabled=False):
            distance = mmd(*_gathered(domains), kernels=self._kernels)
        return Output(self._weight * distance, {"domain_distance": scalar(distance)})


class CORAL(Term):
    """See the module."""

    def __init__(self, _supervised: Supervised, _num_features: int, _num_classes: int, *, weight: float) -> None:
        super().__init__()
        _check(weight)
        self._weight = weight

    def forward(self, domains: Domains) -> Output:
        """The weighted distance; the metric is without the weight."""
        with torch.autocast(domains.source.device.type, enabled=False):
            distance = coral(*_gathered(domains))
        return Output(self._weight * distance, {"domain_distance": scalar(distance)})


def _gathered(domains: Domains) -> tuple[Tensor, Tensor]:
    return collectives.gather(domains.source), collectives.gather(domains.target)


def _check(weight: float) -> None:
    if not weight > 0.0:
        raise InputError(f"weight {weight}: above 0, or nothing is adapted; source-only is a method too.")


MMD_ADAPTATION = Adaptation(
    summary="a kernel distance between the domains' features (Long et al. 2015)", config=MMDConfig, term=MMD
)
CORAL_ADAPTATION = Adaptation(
    summary="a distance between the covariances of their features (Sun and Saenko 2016)", config=CORALConfig, term=CORAL
)
