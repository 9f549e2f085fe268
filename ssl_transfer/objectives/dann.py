"""DANN and CDAN: features from which a discriminator cannot tell the domains.

DANN (Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016): a discriminator d is trained to tell
source (1) from target (0) by the features f, whose gradient is turned round before it reaches the backbone (equations
13 to 18):

    loss = BCE(d(R(f)), domain),    R(f) = f,    dR/df = -lambda,    lambda(p) = 2 / (1 + exp(-10 p)) - 1

with the progress p from 0 to 1. lambda scales what the backbone gets and nothing else: the discriminator learns at full
strength from the first step.

CDAN (Long et al., "Conditional adversarial domain adaptation", NeurIPS 2018) shows the discriminator the outer product
of features and predicted probabilities (equation 5), or where that is wide a random projection of it (equation 6), and
with `entropy` (CDAN+E, equation 8) weighs images by 1 + exp(-entropy), normalised over each domain.

It differs from both in that the schedule begins anew with each phase that trains features, behind the head phase, and
in that the discriminator learns at the rate of the phase.

Shapes: B images, of them N the source's, M the target's; D features, K classes.
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

from .domain_adaptation import Adaptation, Domains, Term
from .supervised import Supervised

MOST_PRODUCTS = 4096
"""Width of an outer product above which it is projected (the authors' code)."""


@dataclass(frozen=True, kw_only=True)
class DANNConfig:
    """Settings of DANN."""

    hidden_width: int = 256
    """Width of the discriminator's hidden layers."""
    hidden_layers: int = 2
    """How many hidden layers the discriminator has; the paper's for digits has one, of 100."""
    strength: float = 1.0
    """What lambda rises to: how much of the reversed gradient reaches the backbone."""


@dataclass(frozen=True, kw_only=True)
class CDANConfig:
    """Settings of CDAN."""

    hidden_width: int = 256
    """Width of the discriminator's hidden layers."""
    hidden_layers: int = 2
    """How many hidden layers the discriminator has."""
    strength: float = 1.0
    """What lambda rises to: how much of the reversed gradient reaches the backbone."""
    entropy: bool = True
    """Let images count more of whose class the head is sure (CDAN+E)."""
    random_width: int = 1024
    """Width of the random projection, where features times classes are more than 4,096."""


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
    """The same features, whose gradient is multiplied by -`strength`, () float32."""
    return _Reverse.apply(features, strength)


def reversal_at(progress: float) -> float:
    """lambda(p), 0 to 1."""
    return 2.0 / (1.0 + math.exp(-10.0 * progress)) - 1.0


class Adversarial(Term):
    """The discriminator and its reversed loss.

    Args:
        num_inputs: width of what it sees.
        hidden_width: of its layers.
        strength: what lambda rises to.
        hidden_layers: how many there are.
    """

    reversal: Tensor

    def __init__(self, num_inputs: int, *, hidden_width: int, strength: float, hidden_layers: int = 2) -> None:
        super().__init__()
        if hidden_width < 1 or not 1 <= hidden_layers <= MOST_LAYERS:
            raise InputError(
                f"hidden_width {hidden_width}, hidden_layers {hidden_layers}: 1 or more, and at most {MOST_LAYERS} "
                "layers."
            )
        if not strength > 0.0:
            raise InputError(f"strength {strength}: above 0, or nothing is adapted; source-only is a method too.")
        widths = [num_inputs, *[hidden_width] * hidden_layers]
        hidden = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.discriminator = nn.Sequential(*hidden, nn.Linear(hidden_width, 1))
        self._strength = strength
        # A buffer: a resumed training goes on with the lambda that it had.
        self.register_buffer("reversal", torch.zeros(()))

    def begin(self, supervised: Supervised) -> None:  # noqa: ARG002
        """The reversal, lambda, begins at 0 in each phase."""
        self.reversal.zero_()

    def after_step(self, progress: float, supervised: Supervised) -> None:  # noqa: ARG002
        """It follows the progress."""
        self.reversal.fill_(self._strength * reversal_at(progress))

    def forward(self, domains: Domains) -> Output:
        """Its loss, its accuracy (0.5 where it is lost), and the distance of the domains that this stands for."""
        inputs, weights = self.inputs(domains)
        count = len(domains.source)
        logits = self.discriminator(reverse(inputs, self.reversal)).squeeze(1)
        # Under autocast these are of half precision.
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
        """What the discriminator sees, (B, ...), and how much each image counts, (B,) of mean 1 over each domain."""
        features = torch.cat([domains.source, domains.target])
        return features, torch.ones(len(features), device=features.device)


class DANN(Adversarial):
    """The discriminator sees the features."""

    def __init__(
        self,
        _supervised: Supervised,
        num_features: int,
        _num_classes: int,
        *,
        hidden_width: int,
        strength: float,
        hidden_layers: int = 2,
    ) -> None:
        super().__init__(num_features, hidden_width=hidden_width, hidden_layers=hidden_layers, strength=strength)


class CDAN(Adversarial):
    """The discriminator sees the features together with the predictions."""

    feature_projection: Tensor
    class_projection: Tensor

    def __init__(
        self,
        _supervised: Supervised,
        num_features: int,
        num_classes: int,
        *,
        hidden_width: int,
        strength: float,
        entropy: bool,
        random_width: int,
        hidden_layers: int = 2,
    ) -> None:
        if random_width < 1:
            raise InputError(f"random_width {random_width}: it must be 1 or more.")
        projected = num_features * num_classes > MOST_PRODUCTS
        super().__init__(
            random_width if projected else num_features * num_classes,
            hidden_width=hidden_width,
            hidden_layers=hidden_layers,
            strength=strength,
        )
        self._entropy, self._projected = entropy, projected
        if projected:
            self.register_buffer("feature_projection", torch.randn(num_features, random_width))
            self.register_buffer("class_projection", torch.randn(num_classes, random_width))

    def inputs(self, domains: Domains) -> tuple[Tensor, Tensor]:
        """See `Adversarial`. The predictions are given: no gradient flows through them."""
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
        sure = 1.0 + torch.exp(-entropies)
        count = len(domains.source)
        # Over all processes: the mean of a share of the batch is another.
        parts = [part / collectives.gather_without_gradient(part).mean() for part in (sure[:count], sure[count:])]
        return products, torch.cat(parts)


DANN_ADAPTATION = Adaptation(
    summary="a discriminator of the domains, its gradient reversed (Ganin et al. 2016)", config=DANNConfig, term=DANN
)
CDAN_ADAPTATION = Adaptation(
    summary="the same, given the predictions too (Long et al. 2018)", config=CDANConfig, term=CDAN
)
