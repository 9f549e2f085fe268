"""MAE: a vision transformer sees a quarter of an image's patches, and a small decoder paints the others.

He, Chen, Xie, Li, Dollar and Girshick, "Masked autoencoders are scalable vision learners", CVPR 2022. The encoder
runs on visible patches only; the loss is the mean squared error on masked patches, whose pixels are normalised patch
by patch (their section 3). Differs from the authors' code in that the noise floor of that normalisation is a setting,
so that blank patches do not turn noise into a target; in that the encoder's position embedding is timm's, learned; and
in that the decoder sees patches alone, no class token.

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

from ssl_transfer.data.transforms.augment import RECONSTRUCTION_DEFAULT, AugmentConfig, augment
from ssl_transfer.data.transforms.presets import augment_field
from ssl_transfer.engine.errors import InputError
from ssl_transfer.engine.optimization.optimizers import OptimizerConfig
from ssl_transfer.engine.randomness import uniform
from ssl_transfer.engine.training.objective import Batch, Objective, Output, scalar
from ssl_transfer.models.backbones import Backbone, BackboneConfig
from ssl_transfer.models.heads import MOST_LAYERS

from .base import Method, Reconstruction, View, check_counts, feature_deviation

MASK_STREAM = 100
"""Far from the views' numbers, so that the mask does not depend on the crop."""
HIDDEN = 0.5
"""The grey that a hidden patch has in pictures."""


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """Settings of MAE."""

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
    """What happens to the image before it is cut into patches."""


class MAE(Objective):
    """See the module's text.

    Args:
        backbone: a plain vision transformer, trained in place; what is exported is this alone.
        mask_ratio: share of hidden patches.
        decoder_width: D of the decoder.
        decoder_depth: its blocks.
        decoder_heads: its attention heads.
        normalize_target: per-patch normalisation.
        noise_floor: see the settings.
        augment: how the image is cropped.
    """

    decoder_position: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        mask_ratio: float,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
        normalize_target: bool,
        noise_floor: float,
        augment: AugmentConfig,
    ) -> None:
        super().__init__()
        check_counts(decoder_width=decoder_width, decoder_depth=decoder_depth, decoder_heads=decoder_heads)
        if decoder_depth > MOST_LAYERS:
            raise InputError(f"decoder_depth {decoder_depth}: at most {MOST_LAYERS}.")
        if noise_floor < 0:
            raise InputError(f"noise_floor {noise_floor}: 0 or more, in deviations of the data set.")
        if not normalize_target and noise_floor != MAEConfig.noise_floor:
            raise InputError(f"noise_floor {noise_floor} would be ignored: targets are not normalised.")
        if decoder_width % decoder_heads or decoder_width % 4:
            raise InputError(f"decoder_width {decoder_width}: must be divisible by 4 and by its {decoder_heads} heads.")
        model = backbone.model
        if not isinstance(model, VisionTransformer):
            raise InputError(f"MAE hides patches, so it needs a vision transformer; {backbone.spec.name} is none.")
        self.backbone = backbone
        self._grid, self._patch = model.patch_embed.grid_size, model.patch_embed.patch_size
        if any(side % patch for side, patch in zip(model.patch_embed.img_size, self._patch, strict=True)):
            raise InputError(
                f"MAE cuts images into patches of {self._patch[0]} x {self._patch[1]} pixels, which do not divide "
                f"{backbone.spec.image_size}. Give another --image-size, or --backbone.arguments patch_size=N."
            )
        num_patches = self._grid[0] * self._grid[1]
        self._num_visible = round(num_patches * (1.0 - mask_ratio))
        if not 1 <= self._num_visible < num_patches:
            raise InputError(f"mask_ratio {mask_ratio}: of {num_patches} patches some must be hidden and some seen.")
        self.decoder_embed = nn.Linear(backbone.num_features, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        nn.init.normal_(self.mask_token, std=0.02)
        position = build_sincos2d_pos_embed(list(self._grid), decoder_width)
        self.register_buffer("decoder_position", position[None], persistent=False)
        self.decoder = nn.Sequential(*(Block(decoder_width, decoder_heads) for _ in range(decoder_depth)))
        self.decoder_norm = nn.LayerNorm(decoder_width)
        pixels = self._patch[0] * self._patch[1] * backbone.spec.in_chans
        self.decoder_head = nn.Linear(decoder_width, pixels)
        self._normalize_target, self._noise_floor, self._augment = normalize_target, noise_floor, augment

    def undecayed(self) -> set[str]:
        """The mask token."""
        return {"mask_token"}

    def patchify(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, L, p * p * C), rows of patches from the top left."""
        height, width = self._patch
        return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=height, q=width)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """The inverse of `patchify`."""
        (rows, columns), (height, width) = self._grid, self._patch
        return rearrange(
            patches, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, w=columns, p=height, q=width
        )  # fmt: skip

    def target(self, images: Tensor, hidden: Tensor) -> Tensor:
        """The pixels to paint, (B, L - V, p * p * C), from normalised images and the hidden patches' numbers."""
        patches = _picked(self.patchify(images), hidden)
        if not self._normalize_target:
            return patches
        mean, deviation = self.moments(patches)
        return (patches - mean) / deviation

    def moments(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Each patch's mean, and its deviation with the noise floor, (B, L - V, 1): normalised targets have neither."""
        deviation = torch.sqrt(patches.var(dim=-1, keepdim=True) + self._noise_floor**2)
        return patches.mean(dim=-1, keepdim=True), deviation

    def random_order(self, keys: Tensor) -> Tensor:
        """(B,) keys -> (B, L) int64: each image's patches in random order; the first V are visible."""
        return uniform(keys, MASK_STREAM, self._grid[0] * self._grid[1]).argsort(dim=1)

    def encode(self, images: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images and the visible patches' numbers (B, V) -> prefix (B, T, D) and patch tokens (B, V, D)."""
        vit: Any = self.backbone.model
        tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
        num_prefix = vit.num_prefix_tokens
        prefix, patches = tokens[:, :num_prefix], tokens[:, num_prefix:]
        tokens = vit.norm(vit.blocks(torch.cat([prefix, _picked(patches, visible)], dim=1)))
        return tokens[:, :num_prefix], tokens[:, num_prefix:]

    def decode(self, encoded: Tensor, order: Tensor) -> Tensor:
        """Visible tokens (B, V, D) and the order (B, L) they came in -> the hidden patches (B, L - V, p * p * C)."""
        embedded, hidden = self.decoder_embed(encoded), order[:, encoded.shape[1] :]
        masked = self.mask_token.to(embedded.dtype).expand(*hidden.shape, -1)
        tokens = _picked(torch.cat([embedded, masked], dim=1), order.argsort(dim=1)) + self.decoder_position
        # Visible patches are not painted: a quarter less of the widest layer.
        return self.decoder_head(self.decoder_norm(_picked(self.decoder(tokens), hidden)))

    def forward(self, batch: Batch) -> Output:
        """The mean squared error on hidden patches."""
        size = self.backbone.spec.image_size
        images = self.backbone.normalize(augment(batch.images, batch.keys, view=0, size=size, config=self._augment))
        order = self.random_order(batch.keys)
        _, encoded = self.encode(images, order[:, : self._num_visible])
        loss = F.mse_loss(self.decode(encoded, order).float(), self.target(images, order[:, self._num_visible :]))
        return Output(loss, {"feature_deviation": scalar(feature_deviation(encoded.mean(dim=1)))})

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> Reconstruction:
        """The image with its hidden patches in grey, and with them painted.

        Normalised targets get back what the normalisation took: each patch's own mean and deviation, which the network
        never learns.
        """
        size = self.backbone.spec.image_size
        view = augment(batch.images, batch.keys, view=0, size=size, config=self._augment)
        images, order = self.backbone.normalize(view), self.random_order(batch.keys)
        _, encoded = self.encode(images, order[:, : self._num_visible])
        painted, patches, hidden = (
            self.decode(encoded, order).float(),
            self.patchify(images),
            order[:, self._num_visible :],
        )
        if self._normalize_target:
            mean, deviation = self.moments(_picked(patches, hidden))
            painted = painted * deviation + mean
        places = hidden[:, :, None].expand_as(painted)
        covered = self.unpatchify(torch.zeros_like(patches).scatter(1, places, 1.0))
        painted = self.unpatchify(patches.scatter(1, places, painted)) * self.backbone.std + self.backbone.mean
        return Reconstruction(
            seen=torch.where(covered > 0, HIDDEN, view), painted=torch.where(covered > 0, painted, view), target=view
        )


def _picked(rows: Tensor, numbers: Tensor) -> Tensor:
    """The rows (B, N, D) of these numbers (B, M), in their order: (B, M, D)."""
    return rows.gather(1, numbers[:, :, None].expand(-1, -1, rows.shape[2]))


METHOD = Method(
    summary="painting hidden patches (He et al. 2022); vision transformers only",
    config=MAEConfig,
    module=MAE,
    backbones="vit",
    backbone=BackboneConfig(name="vit_tiny_patch16_224"),
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.05, second_momentum=0.95),
    epochs=200,
    views=lambda settings: (View(settings.augment),),
    reconstruct=MAE.reconstruct,
)
