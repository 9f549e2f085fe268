"""Adapt with DANN or CDAN: train features on which a discriminator cannot separate the domains.

DANN (Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016): a discriminator d separates source (1)
from target (0) by the features f. A layer R reverses the gradient to the backbone (equations 13 to 18):

    loss = BCE(d(R(f)), domain),    R(f) = f,    dR/df = -lambda,    lambda(p) = 2 / (1 + exp(-10 p)) - 1

with the progress p from 0 to 1. lambda scales the backbone's gradient only: the discriminator trains at full strength
from the first step.

CDAN (Long et al., "Conditional adversarial domain adaptation", NeurIPS 2018): the discriminator's input is the outer
product of features and predicted probabilities (equation 5), or a random projection of a wide product (equation 6).
With `entropy` (CDAN+E, equation 8) images weigh 1 + exp(-entropy), normalised over each domain.

Differences from both: the schedule starts again with each phase that trains features, after the head phase. The
discriminator has the learning rate of the phase.

Shapes: B images, N of them from the source and M from the target; D features, K classes.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.training.objective import Output, scalar
from ssl_transfer.models.heads import MOST_LAYERS

from .domain_adaptation import Adaptation, Domains, Term, check_weight
from .supervised import Supervised

MOST_PRODUCTS = 4096
"""Largest width of an outer product without projection (the authors' code)."""


@dataclass(frozen=True, kw_only=True)
class DANNConfig:
    """Set up DANN."""

    hidden_width: int = 256
    """Width of the discriminator's hidden layers."""
    hidden_layers: int = 2
    """Hidden layers of the discriminator; that of DANN's paper for digits has one, of 100."""
    strength: float = 1.0
    """Final value of lambda: the share of the reversed gradient that reaches the backbone."""

    def __post_init__(self) -> None:
        if self.hidden_width < 1 or not 1 <= self.hidden_layers <= MOST_LAYERS:
            raise InputError(
                f"hidden_width {self.hidden_width}, hidden_layers {self.hidden_layers}: 1 or more, and at most "
                f"{MOST_LAYERS} layers."
            )
        check_weight("strength", self.strength)


@dataclass(frozen=True, kw_only=True)
class CDANConfig(DANNConfig):
    """Set up CDAN."""

    entropy: bool = True
    """Give images with sure predictions more weight (CDAN+E)."""
    random_width: int = 1024
    """Width of the random projection, where features times classes are more than 4,096."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.random_width < 1:
            raise InputError(f"random_width {self.random_width}: it must be 1 or more.")


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, features: Tensor, strength: Tensor) -> Tensor:
        context.save_for_backward(strength)
        return features.view_as(features)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (strength,) = context.saved_tensors
        return -strength * gradients[0], None


def reverse(features: Tensor, strength: Tensor) -> Tensor:
    """Return the features, and multiply their gradient by -`strength`, () float32."""
    return _Reverse.apply(features, strength)


def reversal_at(progress: float) -> float:
    """Return lambda(p), 0 to 1."""
    return 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0


class Adversarial(Term):
    """Train a discriminator of the domains, and reverse its gradient to the features.

    Args:
        num_inputs: width of the discriminator's input.
        config: settings of the discriminator and of the reversal.
    """

    reversal: Tensor

    def __init__(self, num_inputs: int, config: DANNConfig) -> None:
        super().__init__()
        self._strength = config.strength
        widths = [num_inputs, *[config.hidden_width] * config.hidden_layers]
        hidden = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.discriminator = nn.Sequential(*hidden, nn.Linear(config.hidden_width, 1))
        # A buffer: a resumed training continues with the same lambda.
        self.register_buffer("reversal", torch.zeros(()))

    def begin(self, supervised: Supervised) -> None:  # noqa: ARG002
        """Set lambda to 0 at the start of a phase."""
        self.reversal.zero_()

    def after_step(self, progress: float, supervised: Supervised) -> None:  # noqa: ARG002
        """Raise lambda with the progress."""
        self.reversal.fill_(self._strength * reversal_at(progress))

    def forward(self, domains: Domains) -> Output:
        """Compute the discriminator's loss; log its accuracy (0.5 is chance) and the distance of the domains."""
        inputs, weights = self.inputs(domains)
        count = len(domains.source)
        logits = self.discriminator(reverse(inputs, self.reversal)).squeeze(1)
        # Half precision under autocast.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        is_source = torch.zeros_like(logits)
        is_source[:count] = 1.0
        losses = F.binary_cross_entropy_with_logits(logits, is_source, reduction="none")
        # Each domain counts half, whatever its share of the batch.
        source, target = ((losses * weights)[part].mean() for part in (slice(count), slice(count, None)))
        right = ((logits > 0.0) == (is_source > 0.5)).float()
        accuracy = 0.5 * (right[:count].mean() + right[count:].mean())
        return Output(
            0.5 * (source + target),
            {
                "discriminator_loss": scalar(0.5 * (source + target)),
                "discriminator_accuracy": scalar(accuracy),
                "domain_distance": scalar((4.0 * accuracy - 2.0).clamp_min(0.0)),
                "reversal": scalar(self.reversal),
            },
        )

    def inputs(self, domains: Domains) -> tuple[Tensor, Tensor]:
        """Return the discriminator's inputs (B, ...), and weights of images (B,), of mean 1 over each domain."""
        features = torch.cat([domains.source, domains.target])
        return features, torch.ones(len(features), device=features.device)


class DANN(Adversarial):
    """Give the discriminator the features."""

    def __init__(self, _supervised: Supervised, num_features: int, _num_classes: int, config: DANNConfig) -> None:
        super().__init__(num_features, config)


class CDAN(Adversarial):
    """Give the discriminator the features together with the predictions."""

    feature_projection: Tensor
    class_projection: Tensor

    def __init__(self, _supervised: Supervised, num_features: int, num_classes: int, config: CDANConfig) -> None:
        products, width = num_features * num_classes, config.random_width
        projected = products > MOST_PRODUCTS
        super().__init__(width if projected else products, config)
        self._entropy, self._projected = config.entropy, projected
        if projected:
            self.register_buffer("feature_projection", torch.randn(num_features, width))
            self.register_buffer("class_projection", torch.randn(num_classes, width))

    def inputs(self, domains: Domains) -> tuple[Tensor, Tensor]:
        """Return products of features and predictions; no gradient flows through the predictions."""
        features = torch.cat([domains.source, domains.target])
        shares = torch.cat([domains.source_logits, domains.target_logits]).detach().softmax(dim=1)
        if self._projected:
            products = (features @ self.feature_projection) * (shares @ self.class_projection)
            products = products / math.sqrt(products.shape[1])
        else:
            products = (shares[:, :, None] * features[:, None, :]).flatten(1)
        if not self._entropy:
            return products, torch.ones(len(features), device=features.device)
        entropies = -(shares * shares.clamp_min(1e-12).log()).sum(dim=1)
        weights = 1.0 + torch.exp(-entropies)
        count = len(domains.source)
        # Over all processes: the mean of one process's images differs.
        parts = [part / collectives.gather_without_gradient(part).mean() for part in (weights[:count], weights[count:])]
        return products, torch.cat(parts)


DANN_ADAPTATION = Adaptation(
    summary="a discriminator of the domains, its gradient reversed (Ganin et al. 2016)", config=DANNConfig, term=DANN
)
CDAN_ADAPTATION = Adaptation(
    summary="the same, given the predictions too (Long et al. 2018)", config=CDANConfig, term=CDAN
)
