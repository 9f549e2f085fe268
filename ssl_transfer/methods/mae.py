"""Pretrain with MAE: reconstruct the masked patches of an image from the visible quarter.

He, Chen, Xie, Li, Dollar and Girshick, "Masked autoencoders are scalable vision learners", CVPR 2022. A vision
transformer encodes the visible patches x_v only, and a small decoder d reconstructs the masked patches x_m (section 3):

    loss = mean over masked patches and their pixels of (d(encoder(x_v)) - (x_m - mean(x_m)) / deviation(x_m))^2

Mean and deviation are those of each patch by itself.

Differences from the authors' code: the noise floor of the deviation is a setting, so that the noise of blank patches is
no target. The encoder's position embedding is timm's, learned. The decoder has patches alone, no class token.

Shapes: B images, C channels, S pixels a side, L patches of p x p pixels, V visible ones, T prefix tokens, D width.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import build_sincos2d_pos_embed
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ssl_transfer.data.transforms.augment import RECONSTRUCTION_DEFAULT, AugmentConfig
from ssl_transfer.data.transforms.presets import augment_field
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.randomness import uniform
from ssl_transfer.engine.training.objective import Batch, Objective, Output, scalar
from ssl_transfer.models.backbones import Backbone, BackboneConfig
from ssl_transfer.models.heads import MOST_LAYERS

from .base import Method, Reconstruction, View, check_counts, feature_deviation, make_views

MASK_STREAM = 100
"""Stream of random numbers, far from the views' numbers: the mask does not depend on the crop."""
MASK_GREY = 0.5
"""Value of a masked patch in pictures."""


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """Set up MAE."""

    mask_ratio: float = 0.75
    """Share of the patches that the encoder does not see (0.75 in the paper)."""
    decoder_width: int = 128
    """Width of the decoder (512 in the paper, for ViT-L)."""
    decoder_depth: int = 2
    """Blocks of the decoder (8 in the paper)."""
    decoder_heads: int = 4
    """Attention heads of the decoder; they must divide its width."""
    normalize_target: bool = True
    """Normalise each target patch by its own mean and deviation (better features in the paper's table 1d)."""
    noise_floor: float = 0.1
    """Added, squared, to a patch's variance when targets are normalised, in deviations of the data set: patches that
    vary less than this count less."""
    augment: AugmentConfig = augment_field("reconstruction", RECONSTRUCTION_DEFAULT)
    """Augmentation of the image before it is cut into patches."""

    def __post_init__(self) -> None:
        check_counts(
            decoder_width=self.decoder_width, decoder_depth=self.decoder_depth, decoder_heads=self.decoder_heads
        )
        if self.decoder_depth > MOST_LAYERS:
            raise InputError(f"decoder_depth {self.decoder_depth}: at most {MOST_LAYERS}.")
        if self.noise_floor < 0:
            raise InputError(f"noise_floor {self.noise_floor}: 0 or more, in deviations of the data set.")
        if not self.normalize_target and self.noise_floor != MAEConfig.noise_floor:
            raise InputError(f"noise_floor {self.noise_floor} would be ignored: targets are not normalised.")
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise InputError(
                f"decoder_width {self.decoder_width}: must be divisible by 4 and by its {self.decoder_heads} heads."
            )


class MAE(Objective):
    """Train a plain vision transformer in place with MAE; it alone is exported.

    Raises:
        InputError: another backbone, patches that do not divide the image, or no patch to mask or to see.
    """

    decoder_position: Tensor

    def __init__(self, backbone: Backbone, config: MAEConfig) -> None:
        super().__init__()
        model = backbone.model
        if not isinstance(model, VisionTransformer):
            raise InputError(f"MAE hides patches, so it needs a vision transformer; {backbone.spec.name} is none.")
        self.config = config
        self.backbone = backbone
        self._grid, self._patch = model.patch_embed.grid_size, model.patch_embed.patch_size
        if any(side % patch for side, patch in zip(model.patch_embed.img_size, self._patch, strict=True)):
            raise InputError(
                f"MAE cuts images into patches of {self._patch[0]} x {self._patch[1]} pixels, which do not divide "
                f"{backbone.spec.image_size}. Give another --image-size, or --backbone.arguments patch_size=N."
            )
        num_patches = self._grid[0] * self._grid[1]
        self._num_visible = round(num_patches * (1.0 - config.mask_ratio))
        if not 1 <= self._num_visible < num_patches:
            raise InputError(
                f"mask_ratio {config.mask_ratio}: of {num_patches} patches some must be hidden and some seen."
            )
        width = config.decoder_width
        self.decoder_embed = nn.Linear(backbone.num_features, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.normal_(self.mask_token, std=0.02)
        position = build_sincos2d_pos_embed(list(self._grid), width)
        self.register_buffer("decoder_position", position[None], persistent=False)
        self.decoder = nn.Sequential(*(Block(width, config.decoder_heads) for _ in range(config.decoder_depth)))
        self.decoder_norm = nn.LayerNorm(width)
        pixels = self._patch[0] * self._patch[1] * backbone.spec.in_chans
        self.decoder_head = nn.Linear(width, pixels)

    def undecayed(self) -> set[str]:
        """Name the mask token."""
        return {"mask_token"}

    def patchify(self, images: Tensor) -> Tensor:
        """Cut images (B, C, H, W) into patches (B, L, p * p * C), row by row from the top left."""
        height, width = self._patch
        return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=height, q=width)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Invert `patchify`."""
        (rows, columns), (height, width) = self._grid, self._patch
        return rearrange(
            patches, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, w=columns, p=height, q=width
        )  # fmt: skip

    def target(self, images: Tensor, masked: Tensor) -> Tensor:
        """Return the target, (B, L - V, p * p * C), from normalised images and the numbers of masked patches."""
        patches = _picked(self.patchify(images), masked)
        if not self.config.normalize_target:
            return patches
        mean, deviation = self.moments(patches)
        return (patches - mean) / deviation

    def moments(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of each patch, and its deviation with the noise floor, (B, L - V, 1) each."""
        deviation = torch.sqrt(patches.var(dim=-1, keepdim=True) + self.config.noise_floor**2)
        return patches.mean(dim=-1, keepdim=True), deviation

    def random_order(self, keys: Tensor) -> Tensor:
        """Order the patches of each image at random, keys (B,) -> (B, L) int64; the first V are visible."""
        return uniform(keys, MASK_STREAM, self._grid[0] * self._grid[1]).argsort(dim=1)

    def encode(self, images: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Encode normalised images, of which patches (B, V) are visible, to prefix (B, T, D) and patches (B, V, D)."""
        vit: Any = self.backbone.model
        tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
        num_prefix = vit.num_prefix_tokens
        prefix, patches = tokens[:, :num_prefix], tokens[:, num_prefix:]
        tokens = vit.norm(vit.blocks(torch.cat([prefix, _picked(patches, visible)], dim=1)))
        return tokens[:, :num_prefix], tokens[:, num_prefix:]

    def decode(self, encoded: Tensor, order: Tensor) -> Tensor:
        """Decode visible tokens (B, V, D), given the order (B, L), to the masked patches (B, L - V, p * p * C)."""
        embedded, masked = self.decoder_embed(encoded), order[:, encoded.shape[1] :]
        mask_tokens = self.mask_token.to(embedded.dtype).expand(*masked.shape, -1)
        tokens = _picked(torch.cat([embedded, mask_tokens], dim=1), order.argsort(dim=1)) + self.decoder_position
        # Visible patches are not reconstructed: a quarter less of the widest layer.
        return self.decoder_head(self.decoder_norm(_picked(self.decoder(tokens), masked)))

    def forward(self, batch: Batch) -> Output:
        """Compute the mean squared error on masked patches."""
        (view,) = make_views(batch, self.backbone.spec.image_size, self.config.augment)
        images, order = self.backbone.normalize(view), self.random_order(batch.keys)
        _, encoded = self.encode(images, order[:, : self._num_visible])
        loss = F.mse_loss(self.decode(encoded, order).float(), self.target(images, order[:, self._num_visible :]))
        return Output(loss, {"feature_deviation": scalar(feature_deviation(encoded.mean(dim=1)))})

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> Reconstruction:
        """Reconstruct the masked patches within the image, for pictures.

        Normalised targets get back each patch's own mean and deviation, which the network never learns.
        """
        (view,) = make_views(batch, self.backbone.spec.image_size, self.config.augment)
        images, order = self.backbone.normalize(view), self.random_order(batch.keys)
        _, encoded = self.encode(images, order[:, : self._num_visible])
        decoded, patches = self.decode(encoded, order).float(), self.patchify(images)
        masked = order[:, self._num_visible :]
        if self.config.normalize_target:
            mean, deviation = self.moments(_picked(patches, masked))
            decoded = decoded * deviation + mean
        places = masked[:, :, None].expand_as(decoded)
        covered = self.unpatchify(torch.zeros_like(patches).scatter(1, places, 1.0))
        whole = self.unpatchify(patches.scatter(1, places, decoded)) * self.backbone.std + self.backbone.mean
        return Reconstruction(
            seen=torch.where(covered > 0, MASK_GREY, view),
            reconstructed=torch.where(covered > 0, whole, view),
            target=view,
        )


def _picked(rows: Tensor, numbers: Tensor) -> Tensor:
    """Pick rows (B, N, D) by their numbers (B, M), in that order: (B, M, D)."""
    return rows.gather(1, numbers[:, :, None].expand(-1, -1, rows.shape[2]))


METHOD = Method(
    summary="reconstructing masked patches (He et al. 2022); vision transformers only",
    config=MAEConfig,
    module=MAE,
    backbones="vit",
    backbone=BackboneConfig(name="vit_tiny_patch16_224"),
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.05, second_momentum=0.95),
    epochs=200,
    views=lambda config: (View(config.augment),),
    reconstruct=MAE.reconstruct,
)
