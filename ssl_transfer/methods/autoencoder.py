"""Pretrain an autoencoder: reconstruct the image from the backbone's pooled features; the plain baseline.

Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 2006; with noise or masked
squares on the input, the denoising autoencoder (Vincent et al., ICML 2008). With the clean image x, the input x' and
the decoder d:

    loss = mean over pixels of (d(pool(backbone(x'))) - x)^2

Pixels are in deviations of the data set. The code is the same vector that the transfer stage and kNN take.

Shapes: B images, C channels, S pixels a side, D features.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_transfer.data.transforms.augment import RECONSTRUCTION_DEFAULT, AugmentConfig
from ssl_transfer.data.transforms.presets import augment_field
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.randomness import normal, uniform
from ssl_transfer.engine.training.objective import Batch, Objective, Output, scalar
from ssl_transfer.models.backbones import Backbone

from .base import Method, Reconstruction, View, check_counts, feature_deviation, make_views

NOISE_STREAM, MASK_STREAM = 101, 102
"""Streams of random numbers, far from the views' numbers."""
MASK_GRID = 4
"""Squares a side of the grid on which squares are masked."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Set up the autoencoder."""

    noise: float = 0.0
    """Standard deviation of Gaussian noise on the input, in deviations of the data set; 0 adds none."""
    mask_ratio: float = 0.0
    """Probability that a square, a quarter of the image a side, is masked in the input; 0 masks none."""
    decoder_width: int = 128
    """Channels of the decoder's first layer; each doubling of the size halves them."""
    augment: AugmentConfig = augment_field("reconstruction", RECONSTRUCTION_DEFAULT)
    """Augmentation of the image, the target too."""

    def __post_init__(self) -> None:
        check_counts(decoder_width=self.decoder_width)
        if self.noise < 0 or not 0.0 <= self.mask_ratio < 1.0:
            raise InputError(
                f"noise {self.noise}, mask_ratio {self.mask_ratio}: noise is 0 or more, the ratio 0 or more and below "
                "1."
            )


class Autoencoder(Objective):
    """Train a backbone in place as the encoder of an autoencoder."""

    def __init__(self, backbone: Backbone, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        spec = backbone.spec
        self.decoder = _decoder(backbone.num_features, config.decoder_width, spec.image_size, spec.in_chans)

    def corrupt(self, images: Tensor, keys: Tensor) -> Tensor:
        """Add noise to normalised images (B, C, S, S) and mask squares; a masked pixel is 0, the data set's mean."""
        if self.config.noise:
            drawn = normal(keys, NOISE_STREAM, images[0].numel())
            images = images + self.config.noise * drawn.view_as(images)
        if self.config.mask_ratio:
            visible = uniform(keys, MASK_STREAM, MASK_GRID**2) >= self.config.mask_ratio
            grid = visible.view(-1, 1, MASK_GRID, MASK_GRID).to(images.dtype)
            images = images * F.interpolate(grid, size=images.shape[2:], mode="nearest")
        return images

    def autoencode(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return clean images, the encoder's input and the decoder's output, normalised (B, C, S, S); then features."""
        size = self.backbone.spec.image_size
        (view,) = make_views(batch, size, self.config.augment)
        clean = self.backbone.normalize(view)
        corrupted = self.corrupt(clean, batch.keys)
        features = self.backbone.pool(self.backbone.model(corrupted))
        return clean, corrupted, self.decoder(features)[:, :, :size, :size].float(), features

    def forward(self, batch: Batch) -> Output:
        """Compute the mean squared error of the reconstruction."""
        clean, _, reconstructed, features = self.autoencode(batch)
        return Output(F.mse_loss(reconstructed, clean), {"feature_deviation": scalar(feature_deviation(features))})

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> Reconstruction:
        """Reconstruct images from their features, for pictures."""
        clean, corrupted, reconstructed, _ = self.autoencode(batch)
        std, mean = self.backbone.std, self.backbone.mean
        return Reconstruction(
            seen=corrupted * std + mean, reconstructed=reconstructed * std + mean, target=clean * std + mean
        )


def _decoder(num_features: int, width: int, image_size: int, channels: int) -> nn.Sequential:
    """Build (B, D) -> (B, channels, S', S'), with S' at least `image_size`, by doublings from 4 to 7."""
    doublings = max(0, math.floor(math.log2(image_size / 4)))
    side = math.ceil(image_size / 2**doublings)
    layers: list[nn.Module] = [
        nn.Linear(num_features, width * side * side),
        nn.Unflatten(1, (width, side, side)),
        nn.ReLU(inplace=True),
    ]
    for _ in range(doublings):
        narrower = max(16, width // 2)
        layers += [
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(width, narrower, 3, padding=1, bias=False),
            nn.BatchNorm2d(narrower),
            nn.ReLU(inplace=True),
        ]
        width = narrower
    return nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))


METHOD = Method(
    summary="reconstructing the image from its features (Hinton and Salakhutdinov 2006), plain or denoising",
    config=AutoencoderConfig,
    module=Autoencoder,
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
    views=lambda config: (View(config.augment),),
    reconstruct=Autoencoder.reconstruct,
)
