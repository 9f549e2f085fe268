"""Autoencoder: the image is painted again from the backbone's pooled features; the plain baseline.

Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 2006; with noise or
hidden squares on the input, the denoising autoencoder (Vincent et al., ICML 2008). The code is the very vector that
the transfer stage and kNN get. The target is always the clean image, and the loss its mean squared error, in
deviations of the data set.

Shapes: B images, C channels, S pixels a side, D features.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_transfer.data.transforms.augment import RECONSTRUCTION_DEFAULT, AugmentConfig, augment
from ssl_transfer.data.transforms.presets import augment_field
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.randomness import normal, uniform
from ssl_transfer.engine.training.objective import Batch, Objective, Output, scalar
from ssl_transfer.models.backbones import Backbone

from .base import Method, Reconstruction, View, check_counts, feature_deviation

NOISE_STREAM, MASK_STREAM = 101, 102
"""Far from the views' numbers."""
MASK_GRID = 4
"""Hidden squares lie on a grid of this many a side."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Settings of the autoencoder."""

    noise: float = 0.0
    """Deviation of Gaussian noise on the input, in deviations of the data set; 0 adds none."""
    mask_ratio: float = 0.0
    """Probability that a square, a quarter of the image a side, is hidden from the input; 0 hides none."""
    decoder_width: int = 128
    """Channels of the decoder where it begins; each doubling of the size halves them."""
    augment: AugmentConfig = augment_field("reconstruction", RECONSTRUCTION_DEFAULT)
    """What happens to the image before it is seen."""


class Autoencoder(Objective):
    """See the module's text.

    Args:
        backbone: the encoder, any backbone, trained in place.
        noise: deviation of the input's noise.
        mask_ratio: probability of hiding a square.
        decoder_width: channels where the decoder begins.
        augment: how the image is cropped.
    """

    def __init__(
        self, backbone: Backbone, *, noise: float, mask_ratio: float, decoder_width: int, augment: AugmentConfig
    ) -> None:
        super().__init__()
        check_counts(decoder_width=decoder_width)
        if noise < 0 or not 0.0 <= mask_ratio < 1.0:
            raise InputError(
                f"noise {noise}, mask_ratio {mask_ratio}: noise is 0 or more, the ratio 0 or more and below 1."
            )
        self.backbone = backbone
        self.decoder = _decoder(backbone.num_features, decoder_width, backbone.spec.image_size, backbone.spec.in_chans)
        self._noise, self._mask_ratio, self._augment = noise, mask_ratio, augment

    def corrupt(self, images: Tensor, keys: Tensor) -> Tensor:
        """Noise and hidden squares on normalised images (B, C, S, S); a hidden pixel is 0, the data set's mean."""
        if self._noise:
            drawn = normal(keys, NOISE_STREAM, images[0].numel())
            images = images + self._noise * drawn.view_as(images)
        if self._mask_ratio:
            seen = uniform(keys, MASK_STREAM, MASK_GRID**2) >= self._mask_ratio
            grid = seen.view(-1, 1, MASK_GRID, MASK_GRID).to(images.dtype)
            images = images * F.interpolate(grid, size=images.shape[2:], mode="nearest")
        return images

    def paint(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The clean image, what the encoder sees of it, and what is painted, all normalised (B, C, S, S); features."""
        size = self.backbone.spec.image_size
        clean = self.backbone.normalize(augment(batch.images, batch.keys, view=0, size=size, config=self._augment))
        seen = self.corrupt(clean, batch.keys)
        features = self.backbone.pool(self.backbone.model(seen))
        return clean, seen, self.decoder(features)[:, :, :size, :size].float(), features

    def forward(self, batch: Batch) -> Output:
        """The mean squared error of the painted image."""
        clean, _, painted, features = self.paint(batch)
        return Output(F.mse_loss(painted, clean), {"feature_deviation": scalar(feature_deviation(features))})

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> Reconstruction:
        """What the encoder sees, and what is painted from its features."""
        clean, seen, painted, _ = self.paint(batch)
        std, mean = self.backbone.std, self.backbone.mean
        return Reconstruction(seen=seen * std + mean, painted=painted * std + mean, target=clean * std + mean)


def _decoder(num_features: int, width: int, image_size: int, channels: int) -> nn.Sequential:
    """(B, D) -> (B, channels, S', S') with S' at least `image_size`, reached by doublings from 4 to 7."""
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
    summary="painting the image from its features (Hinton and Salakhutdinov 2006), plain or denoising",
    config=AutoencoderConfig,
    module=Autoencoder,
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=1e-4),
    views=lambda settings: (View(settings.augment),),
    reconstruct=Autoencoder.reconstruct,
)
