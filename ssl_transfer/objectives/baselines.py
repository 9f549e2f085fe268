"""Compare adaptation with source training, target statistics (AdaBN) and target labels.

AdaBN (Li et al., "Revisiting batch normalization for practical domain adaptation", ICLR 2017 workshop): train on the
source, then replace BatchNorm's means and variances by those of the target. No weight is trained for it.
"""

from dataclasses import dataclass

from ssl_transfer.engine.errors import InputError

from .domain_adaptation import Adaptation


@dataclass(frozen=True, kw_only=True)
class SourceOnlyConfig:
    """Set up training on the source: no settings of its own."""


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """Set up training on the target's labels: no settings of its own."""


@dataclass(frozen=True, kw_only=True)
class AdaBNConfig:
    """Set up AdaBN."""

    images: int = 2048
    """Images of the target that give the statistics, at most."""

    def __post_init__(self) -> None:
        if self.images < 2:
            raise InputError(f"images {self.images}: two or more, or there are no statistics.")


SOURCE_ONLY = Adaptation(summary="trained on the source, the lower end of the scale", config=SourceOnlyConfig)
ADABN = Adaptation(
    summary="the same with BatchNorm's statistics of the target (Li et al. 2017)",
    config=AdaBNConfig,
    estimates_statistics=True,
)
TARGET = Adaptation(
    summary="trained on the target's labels, the upper end: no adaptation", config=TargetConfig, on_target=True
)
