"""Pretrain with MoCo: find the key of an image in a queue of earlier keys, from a momentum encoder.

He, Fan, Wu, Xie and Girshick, "Momentum contrast for unsupervised visual representation learning", CVPR 2020, with
the projector and augmentation of version 2 (Chen, Fan, Girshick and He 2020). q is the query of a view, k+ the key of
the image's other view, k_i are the keys in the queue and t is the temperature (equation 1):

    loss = -log( exp(q k+ / t) / (exp(q k+ / t) + sum over i of exp(q k_i / t)) )

Queue, pointer and momentum encoder are part of the state.

Differences: the shuffling of images. If a query and its key shared BatchNorm statistics, these would give the key away.
The paper shuffles images between GPUs, which does nothing on one GPU. Here the key encoder takes the images in random
order, in groups normalised apart. No key shares its statistics with its query, at any number of processes. A backbone
without BatchNorm (a vision transformer, ConvNeXt) needs no shuffling: only the projector has BatchNorm, and one group
does.

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

from .base import Method, check_counts, deviations, make_views, mlp
from .momentum_encoder import Schedule, check_momentum, momentum_at, momentum_copy, momentum_update

SHUFFLE_STREAM = 103
"""Stream of random numbers, far from the views' numbers."""


@dataclass(frozen=True, kw_only=True)
class MoCoConfig:
    """Set up MoCo."""

    temperature: float = 0.2
    """Divides the cosines (0.2 in version 2)."""
    queue_size: int = 1024
    """Keys that serve as negatives, K (65,536 in the paper, for 1.3 million images). Never more than the pool's images,
    or an image would meet its own older keys as negatives: the default becomes smaller with the pool, another value
    is refused."""
    momentum: float = 0.99
    """Share of the key encoder that stays at each step, at the start."""
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
    """Augmentation of both views."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"temperature {self.temperature}: it must be above 0, usually 0.07 to 0.3.")
        check_counts(
            queue_size=self.queue_size,
            key_groups=self.key_groups,
            hidden_width=self.hidden_width,
            output_width=self.output_width,
        )
        check_momentum(self.momentum)


class MoCo(Objective):
    """Train a backbone in place, as the query encoder of MoCo."""

    loss_over_batch = True
    # Over all images, a key would have the statistics of its query.
    normalised_together = False
    queue: Tensor
    filled: Tensor
    pointer: Tensor

    def __init__(self, backbone: Backbone, config: MoCoConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.projector = mlp((backbone.num_features, config.hidden_width, config.output_width))
        self.key_backbone, self.key_projector = momentum_copy(backbone), momentum_copy(self.projector)
        self.register_buffer("queue", torch.zeros(config.queue_size, config.output_width))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> Output:
        """Compute the loss of the queries, and put the keys into the queue afterwards."""
        augment, symmetric = self.config.augment, self.config.symmetric
        first, second = make_views(batch, self.backbone.spec.image_size, augment, augment)
        features = self.backbone(torch.cat([first, second]) if symmetric else first)
        queries = self.projector(features)
        with torch.no_grad():
            # The key of each query is the other view of its image.
            partners = torch.cat([second, first]) if symmetric else second
            order = uniform(batch.keys, SHUFFLE_STREAM, 2 if symmetric else 1).T.flatten().argsort()
            keys = self.encode_keys(partners, order)
        with torch.autocast(queries.device.type, enabled=False):
            loss = self.contrast(F.normalize(queries.float(), dim=1), keys)
        if self.training:
            self.enqueue(collectives.gather_without_gradient(keys[: len(batch.images)]))
        return Output(loss, deviations(features, queries))

    def encode_keys(self, views: Tensor, order: Tensor) -> Tensor:
        """Encode views (N, C, S, S) to unit keys (N, P) float32, in the order (N,) int64 and in groups."""
        # BatchNorm needs two images a group.
        groups = order.chunk(max(1, min(self.config.key_groups, len(order) // 2)))
        encoded = torch.cat([self.key_projector(self.key_backbone(views[group])) for group in groups])
        return F.normalize(encoded.float(), dim=1)[order.argsort()]

    def contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Compute InfoNCE of unit vectors (N, P) float32: each query's own key against the queue without these keys.

        Until the queue is full, its empty places are no negatives.
        """
        positives = (queries * keys).sum(dim=1, keepdim=True)
        # A copy: the queue changes before the backward pass, which needs it as it was here.
        negatives = queries @ self.queue.clone().T
        empty = torch.arange(len(self.queue), device=queries.device) >= self.filled
        negatives = negatives.masked_fill(empty, -math.inf)
        logits = torch.cat([positives, negatives], dim=1) / self.config.temperature
        return F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.int64, device=queries.device))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Overwrite the oldest keys of the queue with keys (N, P), first in first out; N need not divide K."""
        size = len(self.queue)
        keys = keys[-size:]
        places = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.queue[places] = keys
        self.pointer.copy_((self.pointer + len(keys)) % size)
        self.filled.copy_((self.filled + len(keys)).clamp(max=size))

    def after_step(self, progress: float) -> None:
        """Update the key encoder's weights; its BatchNorm gathers its own statistics."""
        momentum = momentum_at(progress, start=self.config.momentum, schedule=self.config.momentum_schedule)
        momentum_update((self.key_backbone, self.backbone), (self.key_projector, self.projector), momentum=momentum)


def fitted(config: MoCoConfig, num_images: int) -> MoCoConfig:
    """Shrink the default queue to a pool of so many images.

    Raises:
        InputError: the queue is larger than the pool, and not by default.
    """
    if config.queue_size <= num_images:
        return config
    if config.queue_size != MoCoConfig.queue_size:
        raise InputError(
            f"queue_size {config.queue_size}: the pool has {num_images} images, so that each would meet its own "
            f"older keys as negatives. At most {num_images}."
        )
    return replace(config, queue_size=num_images)


METHOD = Method(
    summary="contrast of two views with a queue and a momentum encoder (He et al. 2020, version 2)",
    config=MoCoConfig,
    module=MoCo,
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
    fitted=fitted,
)
