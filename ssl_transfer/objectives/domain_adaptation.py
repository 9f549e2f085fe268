"""What adaptation objectives share: one forward of both domains, the source's cross-entropy, and a term between them.

    loss = cross-entropy(source) + term(features of source, features of target)

A batch holds the source's images first and the target's behind them (`data.domain_loader`), and goes through the
backbone at once. With statistics apart (Chang et al., "Domain-specific batch normalization", CVPR 2019, without its
separate scales and shifts) each domain is normalised by itself, in training and afterwards.

Shapes: B images, of them N the source's, M the target's; D what the head's layers see of an image, K classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ssl_transfer.engine.training.objective import Batch, Objective, Output
from ssl_transfer.models.backbones import Backbone
from ssl_transfer.models.heads import features_for

from .domain_batch_norm import TargetStatistics
from .supervised import Supervised


class Domains(NamedTuple):
    """What a term sees of a batch."""

    source: Tensor
    """(N, D) float32, with gradient; divided by the head's scale, so of about 1."""
    target: Tensor
    """(M, D) float32."""
    source_logits: Tensor
    """(N, K) float32."""
    target_logits: Tensor
    """(M, K) float32."""
    target_images: Tensor
    """(M, C, H, W): as they are stored."""


class Term(nn.Module):
    """What is added to the cross-entropy. Subclasses implement `forward(Domains) -> Output`."""

    def begin(self, supervised: Supervised) -> None:
        """A phase begins that trains features, from these weights."""

    def forward(self, domains: Domains) -> Output:
        """The term, () float32, and metrics."""
        raise NotImplementedError(f"{type(self).__name__} does not implement forward(domains) -> Output")

    def after_step(self, progress: float, supervised: Supervised) -> None:
        """As `Objective.after_step`, with the weights as they are now: in statistics apart, the target's."""


class Adapting(Objective):
    """A supervised objective on the source, with a term between the domains.

    Args:
        supervised: backbone, head, what happens to images and to labels.
        term: None for what trains on the source alone.
        norm: separate: BatchNorm's statistics apart; estimated: those of the target are kept too, and set from outside
            (`models` are then measured and exported with them); shared: one for both.
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
        """What is trained."""
        return self.supervised.backbone

    def begin(self, *, adapting: bool, source_share: float = 0.5) -> None:
        """A phase begins, for which the supervised objective has been told what is trained.

        Args:
            adapting: whether batches hold both domains, or the source alone.
            source_share: of a batch that is the source's.
        """
        self._adapting, self._source_share = adapting, source_share
        if self.term is not None:
            self.term.requires_grad_(adapting)
            if adapting:
                with self.in_target():
                    self.term.begin(self.supervised)
        self.loss_over_batch = adapting or self.supervised.loss_over_batch

    def train(self, mode: bool = True) -> "Adapting":
        """What is frozen stays in evaluation mode."""
        self.training = mode
        self.supervised.train(mode)
        if self.term is not None:
            self.term.train(mode)
        return self

    def forward(self, batch: Batch) -> Output:
        """The source's cross-entropy and the term."""
        if self.term is None or not self._adapting:
            return self.supervised(batch)
        supervised, count = self.supervised, round(len(batch.images) * self._source_share)
        views = supervised.view(batch.images, batch.keys)
        targets = supervised.targets(batch.labels[:count])
        source_views, targets = supervised.mixed(views[:count], targets, batch.keys[:count])
        if self._separate:
            source = self._features(source_views)
            with self.in_target():
                target = self._features(views[count:])
            features = torch.cat([source, target])
        else:
            features = self._features(torch.cat([source_views, views[count:]]))
        logits = supervised.scores_of_pooled(features)
        found = supervised.compared(logits[:count], targets)
        features = features.float()
        term = self.term(
            Domains(features[:count], features[count:], logits[:count], logits[count:], batch.images[count:])
        )
        return Output(found.loss + term.loss, {**found.metrics, **term.metrics})

    def _features(self, views: Tensor) -> Tensor:
        head = self.supervised.head
        return head.pooled(features_for(head, self.backbone, views))

    @contextmanager
    def in_target(self) -> Iterator[None]:
        """For the `with` block the model is the one for the target: with its statistics, where there are such."""
        if self.statistics is None:
            yield
        else:
            with self.statistics.applied():
                yield

    def outputs(self, images: Tensor) -> Tensor:
        """Stored images (B, C, H, W) -> (B, K + D) float32, scores and what the head's layers see of the plain view."""
        pooled = self._features(self.supervised.plain_view(images))
        return torch.cat([self.supervised.scores_of_pooled(pooled), pooled.float()], dim=1)

    def after_step(self, progress: float) -> None:
        """See `Term.after_step`."""
        if self._adapting and self.term is not None:
            with self.in_target():
                self.term.after_step(progress, self.supervised)


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What the rest of the house knows of a way to adapt."""

    summary: str
    """One sentence for help texts and tables."""
    config: type
    """A frozen dataclass. Each field is an argument of `term` behind its first two, its docstring is its help."""
    term: Callable[..., Term] | None = None
    """`term(supervised, num_features, num_classes, **fields of config)`; None where nothing but labels is trained on.
    `num_features` is D."""
    on_target: bool = False
    """Whether it trains on the target's labels: the upper end of the scale."""
    estimates_statistics: bool = False
    """Whether BatchNorm's statistics are taken from the target, without training."""

    def build(self, supervised: Supervised, num_features: int, num_classes: int, config: Any) -> Term | None:
        """The term with these settings."""
        if self.term is None:
            return None
        arguments = {name: getattr(config, name) for name in config.__dataclass_fields__}
        return self.term(supervised, num_features, num_classes, **arguments)
