"""MoCo: views are recognised among a queue of views encoded earlier, by a slowly moving copy of the encoder.

He, Fan, Wu, Xie and Girshick, "Momentum contrast for unsupervised visual representation learning", CVPR 2020, with
the projector and augmentation of version 2 (Chen, Fan, Girshick and He 2020). With q the query of a view, k+ the key
of the image's other view and k_i the queue (their equation 1):

    loss = -log( exp(q k+ / t) / (exp(q k+ / t) + sum over i of exp(q k_i / t)) )

Batch normalisation would let a query find its key by the batch that both were normalised with. The paper shuffles
images between GPUs, which does nothing on one. Here the key encoder takes the images in random order and in groups
that are normalised apart, so that no key shares its statistics with its query at any number of processes. Queue,
pointer and momentum encoder are part of the state. A backbone without BatchNorm (a vision transformer, ConvNeXt) needs
no shuffling: only the projector's is left, and one group does.

Shapes: B images of this process, D features, P projector width, K queue size, W processes.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_transfer.data.transforms.augment import AugmentConfig
from ssl_transfer.engine.distributed import collectives
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.randomness import uniform
from ssl_transfer.engine.training.objective import Batch, Objective, Output
from ssl_transfer.models.backbones import Backbone

from .base import Method, augmented, check_counts, deviations, mlp
from .momentum_encoder import Schedule, check_momentum, copied, follow, momentum_at

SHUFFLE_STREAM = 103
"""Far from the views' numbers."""


@dataclass(frozen=True, kw_only=True)
class MoCoConfig:
    """Settings of MoCo."""

    temperature: float = 0.2
    """Divides the cosines (0.2 in version 2)."""
    queue_size: int = 1024
    """Keys that serve as negatives, K (65,536 in the paper, for 1.3 million images). Never more than the pool's images,
    or an image would meet its own older keys as negatives: the default becomes smaller with the pool, another value
    is refused."""
    momentum: float = 0.99
    """How much of the key encoder stays at each step, at the start."""
    momentum_schedule: Schedule = "cosine"
    """cosine: it rises to 1 along a cosine (Grill et al. 2020). constant: it stays; the paper's constant 0.999 suits
    trainings of 100,000 steps and more."""
    hidden_width: int = 512
    """Width of the projector's hidden layer."""
    output_width: int = 128
    """Width of the projector's output, P."""
    key_groups: int = 2
    """Groups of shuffled images that the key encoder's BatchNorm normalises apart. 1 is plain BatchNorm: it leaks, but
    hardly with a backbone that has none (vision transformers, ConvNeXt), where only the projector's is left."""
    symmetric: bool = True
    """Each view is the query once and the key once (twice the work a step); otherwise the first is the query."""
    augment: AugmentConfig = AugmentConfig()
    """What makes the two views."""


class MoCo(Objective):
    """See the module's text.

    Args:
        backbone: trained in place; it is the query encoder's.
        temperature: t above.
        queue_size: K.
        momentum: at the start.
        momentum_schedule: how it goes on.
        hidden_width: of the projector.
        output_width: P.
        key_groups: groups that are normalised apart.
        symmetric: whether both views are queries.
        augment: how views are made.
    """

    loss_over_batch = True
    # Of all images, a key's statistics would be its query's.
    normalised_together = False
    queue: Tensor
    filled: Tensor
    pointer: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        temperature: float,
        queue_size: int,
        momentum: float,
        momentum_schedule: Schedule,
        hidden_width: int,
        output_width: int,
        key_groups: int,
        symmetric: bool,
        augment: AugmentConfig,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"temperature {temperature}: it must be above 0, usually 0.07 to 0.3.")
        check_counts(queue_size=queue_size, key_groups=key_groups, hidden_width=hidden_width, output_width=output_width)
        check_momentum(momentum)
        self.backbone = backbone
        self.projector = mlp((backbone.num_features, hidden_width, output_width))
        self.key_backbone, self.key_projector = copied(backbone), copied(self.projector)
        self.register_buffer("queue", torch.zeros(queue_size, output_width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self._temperature, self._momentum, self._schedule = temperature, momentum, momentum_schedule
        self._key_groups, self._symmetric, self._augment = key_groups, symmetric, augment

    def forward(self, batch: Batch) -> Output:
        """The loss of the queries; the keys join the queue afterwards."""
        views = augmented(batch, self.backbone, self._augment)
        count = len(batch.images)
        features = self.backbone(views if self._symmetric else views[:count])
        queries = self.projector(features)
        with torch.no_grad():
            # Each query's key is the other view of its image.
            partners = torch.cat([views[count:], views[:count]]) if self._symmetric else views[count:]
            order = uniform(batch.keys, SHUFFLE_STREAM, len(partners) // count).T.flatten().argsort()
            keys = self.encode_keys(partners, order)
        with torch.autocast(views.device.type, enabled=False):
            loss = self.contrast(F.normalize(queries.float(), dim=1), keys)
        if self.training:
            self.enqueue(collectives.gather_without_gradient(keys[:count]))
        return Output(loss, deviations(features, queries))

    def encode_keys(self, views: Tensor, order: Tensor) -> Tensor:
        """Unit keys (N, P) float32 of views (N, C, S, S), encoded in the order (N,) int64 and in groups."""
        # BatchNorm needs two images a group.
        groups = order.chunk(max(1, min(self._key_groups, len(order) // 2)))
        encoded = torch.cat([self.key_projector(self.key_backbone(views[group])) for group in groups])
        return F.normalize(encoded.float(), dim=1)[order.argsort()]

    def contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        """InfoNCE of unit vectors (N, P), float32: each query's own key against the queue as it is before these keys.

        Until the queue is full, its empty places are no negatives.
        """
        positives = (queries * keys).sum(dim=1, keepdim=True)
        # A copy: the queue moves on before the backward pass, which needs it as it was here.
        negatives = queries @ self.queue.clone().T
        empty = torch.arange(len(self.queue), device=queries.device) >= self.filled
        negatives = negatives.masked_fill(empty, -math.inf)
        logits = torch.cat([positives, negatives], dim=1) / self._temperature
        return F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.int64, device=queries.device))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put keys (N, P) over the oldest ones, first in first out; N need not divide K."""
        size = len(self.queue)
        keys = keys[-size:]
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.queue[places] = keys
        self.pointer.copy_((self.pointer + len(keys)) % size)
        self.filled.copy_((self.filled + len(keys)).clamp(max=size))

    def after_step(self, progress: float) -> None:
        """Move the key encoder's weights towards the query encoder's. Statistics it gathers itself."""
        momentum = momentum_at(progress, start=self._momentum, schedule=self._schedule)
        follow((self.key_backbone, self.backbone), (self.key_projector, self.projector), momentum=momentum)


def fitted(settings: MoCoConfig, num_images: int) -> MoCoConfig:
    """The settings with a queue that a pool of so many images allows.

    Raises:
        InputError: the queue is larger than the pool, and not by default.
    """
    if settings.queue_size <= num_images:
        return settings
    if settings.queue_size != MoCoConfig.queue_size:
        raise InputError(
            f"queue_size {settings.queue_size}: the pool has {num_images} images, so that each would meet its own "
            f"older keys as negatives. At most {num_images}."
        )
    return replace(settings, queue_size=num_images)


METHOD = Method(
    summary="contrast of two views with a queue and a momentum encoder (He et al. 2020, version 2)",
    config=MoCoConfig,
    module=MoCo,
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
    fitted=fitted,
)
