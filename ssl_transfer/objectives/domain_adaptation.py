"""Adapt to a target domain: one forward of both domains, cross-entropy on the source, and a term between them.

    loss = cross-entropy(source) + term(features of source, features of target)

A batch holds the source's images first and then the target's (`data.loaders.two_domains`), in one forward of the
backbone. With separate statistics (Chang et al., "Domain-specific batch normalization", CVPR 2019, without its separate
scales and shifts) BatchNorm normalises each domain apart, in training and afterwards.

Shapes: B images, N of them from the source and M from the target; D inputs of the head's layers, K classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.objective import Batch, Objective, Output
from ssl_transfer.models.backbones import Backbone
from ssl_transfer.models.heads import features_for

from .domain_batch_norm import TargetStatistics
from .supervised import Supervised


class Domains(NamedTuple):
    """Hold the features, logits and images of both domains of a batch."""

    source: Tensor
    """(N, D) float32, with gradient; about 1 in size, by the head's scale."""
    target: Tensor
    """(M, D) float32."""
    source_logits: Tensor
    """(N, K) float32."""
    target_logits: Tensor
    """(M, K) float32."""
    target_images: Tensor
    """(M, C, H, W), as stored."""


class Term(nn.Module):
    """Add a loss between the domains to the cross-entropy.

    Subclasses take `(supervised, num_features, num_classes, config)`, as `Adaptation.term` describes it, and implement
    `forward(domains) -> Output`.
    """

    def begin(self, supervised: Supervised) -> None:
        """Start a phase that trains features, from these weights."""

    def forward(self, domains: Domains) -> Output:
        """Compute the term, () float32, and metrics."""
        raise NotImplementedError(f"{type(self).__name__} does not implement forward(domains) -> Output")

    def after_step(self, progress: float, supervised: Supervised) -> None:
        """Act as `Objective.after_step`; BatchNorm has the target's statistics, where these are separate."""


def check_weight(name: str, value: float) -> None:
    """Raise InputError for the weight of a term that is not above 0."""
    if not value > 0.0:
        raise InputError(f"{name} {value}: above 0, or nothing is adapted; source-only is a method too.")


class Adapting(Objective):
    """Train on the source's labels, with a term between the domains.

    Args:
        supervised: cross-entropy on the source.
        term: None for training on the source alone.
        norm: BatchNorm's statistics. shared: one set for both domains. separate: one set for each domain. estimated:
            a set for the target too, estimated from outside; the model is measured and exported with it.
    """

    loss_over_batch = True

    def __init__(
        self,
        supervised: Supervised,
        term: Term | None,
        *,
        norm: Literal["shared", "separate", "estimated"] = "shared",
    ) -> None:
        super().__init__()
        self.supervised, self.term = supervised, term
        self.statistics = None if norm == "shared" else TargetStatistics(supervised.backbone)
        self._separate, self._source_share = norm == "separate", 0.5
        self._adapting = False

    @property
    def backbone(self) -> Backbone:
        """Return the trained backbone."""
        return self.supervised.backbone

    def begin(self, *, adapting: bool, source_share: float = 0.5) -> None:
        """Start a phase, after `Supervised.set_trained`.

        Args:
            adapting: batches hold both domains, not the source alone.
            source_share: share of a batch that is the source's.
        """
        self._adapting, self._source_share = adapting, source_share
        if self.term is not None:
            self.term.requires_grad_(adapting)
            if adapting:
                with self.in_target():
                    self.term.begin(self.supervised)
        self.loss_over_batch = adapting or self.supervised.loss_over_batch

    def train(self, mode: bool = True) -> "Adapting":
        """Set the mode; frozen parts stay in evaluation mode."""
        self.training = mode
        self.supervised.train(mode)
        if self.term is not None:
            self.term.train(mode)
        return self

    def forward(self, batch: Batch) -> Output:
        """Compute the source's cross-entropy and the term."""
        if self.term is None or not self._adapting:
            return self.supervised(batch)
        supervised, count = self.supervised, round(len(batch.images) * self._source_share)
        views = supervised.view(batch.images, batch.keys)
        targets = supervised.targets(batch.labels[:count])
        source_views, targets = supervised.mix_views(views[:count], targets, batch.keys[:count])
        if self._separate:
            source = self._features(source_views)
            with self.in_target():
                target = self._features(views[count:])
            features = torch.cat([source, target])
        else:
            features = self._features(torch.cat([source_views, views[count:]]))
        logits = supervised.scores_of_pooled(features)
        output = supervised.cross_entropy(logits[:count], targets)
        features = features.float()
        term = self.term(
            Domains(features[:count], features[count:], logits[:count], logits[count:], batch.images[count:])
        )
        return Output(output.loss + term.loss, {**output.metrics, **term.metrics})

    def _features(self, views: Tensor) -> Tensor:
        head = self.supervised.head
        return head.pooled(features_for(head, self.backbone, views))

    @contextmanager
    def in_target(self) -> Iterator[None]:
        """Give the model the target's statistics for the `with` block, where it has them."""
        if self.statistics is None:
            yield
        else:
            with self.statistics.applied():
                yield

    def outputs(self, images: Tensor) -> Tensor:
        """Return logits and inputs of the head's layers, (B, K + D) float32, of plain views of images (B, C, H, W)."""
        pooled = self._features(self.supervised.plain_view(images))
        return torch.cat([self.supervised.scores_of_pooled(pooled), pooled.float()], dim=1)

    def after_step(self, progress: float) -> None:
        """Call `Term.after_step`."""
        if self._adapting and self.term is not None:
            with self.in_target():
                self.term.after_step(progress, self.supervised)


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Describe a way to adapt."""

    summary: str
    """One sentence for help texts and tables."""
    config: type
    """A frozen dataclass of settings; the docstring of a field is its help."""
    term: Callable[[Supervised, int, int, Any], Term] | None = None
    """`term(supervised, num_features, num_classes, config)`, with D features; None for training on labels alone."""
    on_target: bool = False
    """Train on the target's labels: the upper bound."""
    estimates_statistics: bool = False
    """Estimate BatchNorm's statistics from the target, without training."""
