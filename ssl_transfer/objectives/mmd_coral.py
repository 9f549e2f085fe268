"""Adapt with MMD or CORAL: minimise a distance between source and target features.

MMD with several kernels (Long et al., "Learning transferable features with deep adaptation networks", ICML 2015):

    mean k(s, s') + mean k(t, t') - 2 mean k(s, t),    k(x, y) = sum over u of exp(-|x - y|^2 / (bandwidth 2^u))

with the mean squared distance between all pairs of the batch as the bandwidth, and u from -2 to 2 for five kernels. The
estimate is the biased one, never negative, divided by the number of kernels, so it lies in 0..2.

CORAL (Sun and Saenko, "Deep CORAL", ECCV 2016 workshops, equations 1 to 3): |C_s - C_t|^2 / (4 D^2), with covariances C
and the squared Frobenius norm.

Both distances are those of the global batch: features are gathered from all processes.

Shapes: N images of the source, M of the target, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.objective import Output, scalar

from .domain_adaptation import Adaptation, Domains, Term, check_weight
from .supervised import Supervised


@dataclass(frozen=True, kw_only=True)
class MMDConfig:
    """Set up MMD."""

    weight: float = 1.0
    """Weight of the distance, beside the cross-entropy."""
    kernels: int = 5
    """Gaussian kernels, each of twice the bandwidth of the one before, around the mean squared distance."""

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        if self.kernels < 1:
            raise InputError(f"kernels {self.kernels}: it must be 1 or more.")


@dataclass(frozen=True, kw_only=True)
class CORALConfig:
    """Set up CORAL."""

    weight: float = 1.0
    """Weight of the distance, beside the cross-entropy; both should end alike in size (the paper, section 4)."""

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)


def mmd(source: Tensor, target: Tensor, *, kernels: int = 5) -> Tensor:
    """Return MMD of features (N, D) and (M, D) float32: () float32, 0..2."""
    count = len(source)
    rows = torch.cat([source, target])
    # From differences of rows: differences of large norms would round. No (N + M, N + M, D) in memory.
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
    """Return the CORAL distance of (N, D) and (M, D) float32, two images of each at least: () float32."""
    difference = _covariance(source) - _covariance(target)
    return difference.square().sum() / (4.0 * source.shape[1] ** 2)


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(dim=0)
    return centred.mT @ centred / (len(features) - 1)


class MMD(Term):
    """Minimise the maximum mean discrepancy of the domains' features."""

    def __init__(self, _supervised: Supervised, _num_features: int, _num_classes: int, config: MMDConfig) -> None:
        super().__init__()
        self._weight, self._kernels = config.weight, config.kernels

    def forward(self, domains: Domains) -> Output:
        """Return the weighted distance, and log it without the weight."""
        with torch.autocast(domains.source.device.type, enabled=False):
            distance = mmd(*_gathered(domains), kernels=self._kernels)
        return Output(self._weight * distance, {"domain_distance": scalar(distance)})


class CORAL(Term):
    """Minimise the distance of the covariances of the domains' features."""

    def __init__(self, _supervised: Supervised, _num_features: int, _num_classes: int, config: CORALConfig) -> None:
        super().__init__()
        self._weight = config.weight

    def forward(self, domains: Domains) -> Output:
        """Return the weighted distance, and log it without the weight."""
        with torch.autocast(domains.source.device.type, enabled=False):
            distance = coral(*_gathered(domains))
        return Output(self._weight * distance, {"domain_distance": scalar(distance)})


def _gathered(domains: Domains) -> tuple[Tensor, Tensor]:
    return collectives.gather(domains.source), collectives.gather(domains.target)


MMD_ADAPTATION = Adaptation(
    summary="a kernel distance between the domains' features (Long et al. 2015)", config=MMDConfig, term=MMD
)
CORAL_ADAPTATION = Adaptation(
    summary="a distance between the covariances of their features (Sun and Saenko 2016)", config=CORALConfig, term=CORAL
)
