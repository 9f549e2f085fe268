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
from einops import rearrange
from timm.layers import build_sincos2d_pos_embed
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ..data.augment import RECONSTRUCTION_DEFAULT, AugmentConfig, augment
from ..engine.contract import Batch, Objective, Output, scalar
from ..engine.errors import InputError
from ..engine.optim import OptimizerConfig
from ..engine.randomness import uniform
from ..models.backbones import Backbone, BackboneConfig
from .method import Method, Reconstruction, feature_deviation

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
    augment: AugmentConfig = RECONSTRUCTION_DEFAULT
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

    def target(self, images: Tensor) -> Tensor:
        """The pixels to paint, (B, L, p * p * C), from normalised images."""
        patches = self.patchify(images)
        if not self._normalize_target:
            return patches
        mean, deviation = self.moments(patches)
        return (patches - mean) / deviation

    def moments(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """What normalised targets are freed of: each patch's mean and deviation, with the noise floor, (B, L, 1)."""
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
        seen = patches.gather(1, visible[:, :, None].expand(-1, -1, patches.shape[2]))
        tokens = vit.norm(vit.blocks(torch.cat([prefix, seen], dim=1)))
        return tokens[:, :num_prefix], tokens[:, num_prefix:]

    def decode(self, encoded: Tensor, order: Tensor) -> Tensor:
        """Visible tokens (B, V, D) and the order (B, L) they came in -> painted patches (B, L, p * p * C)."""
        embedded = self.decoder_embed(encoded)
        hidden = self.mask_token.to(embedded.dtype).expand(len(order), order.shape[1] - embedded.shape[1], -1)
        shuffled = torch.cat([embedded, hidden], dim=1)
        restore = order.argsort(dim=1)
        tokens = shuffled.gather(1, restore[:, :, None].expand(-1, -1, shuffled.shape[2])) + self.decoder_position
        return self.decoder_head(self.decoder_norm(self.decoder(tokens)))

    def forward(self, batch: Batch) -> Output:
        """The mean squared error on hidden patches."""
        size = self.backbone.spec.image_size
        images = self.backbone.normalize(augment(batch.images, batch.keys, view=0, size=size, config=self._augment))
        order = self.random_order(batch.keys)
        _, encoded = self.encode(images, order[:, : self._num_visible])
        painted = self.decode(encoded, order)
        error = (painted.float() - self.target(images)).square().mean(dim=2)
        loss = error.gather(1, order[:, self._num_visible :]).mean()
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
        painted = self.decode(encoded, order).float()
        if self._normalize_target:
            mean, deviation = self.moments(self.patchify(images))
            painted = painted * deviation + mean
        painted = self.unpatchify(painted) * self.backbone.std + self.backbone.mean
        hidden = torch.ones_like(order, dtype=view.dtype).scatter(1, order[:, : self._num_visible], 0.0)
        covered = self.unpatchify(hidden[:, :, None].expand(-1, -1, self.decoder_head.out_features))
        return Reconstruction(
            seen=torch.where(covered > 0, HIDDEN, view), painted=torch.where(covered > 0, painted, view), target=view
        )


METHOD = Method(
    summary="painting hidden patches (He et al. 2022); vision transformers only",
    config=MAEConfig,
    module=MAE,
    backbones="vit",
    backbone=BackboneConfig(name="vit_tiny_patch16_224"),
    optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.05, second_momentum=0.95),
    epochs=200,
    views=lambda settings: (settings.augment,),
    reconstruct=MAE.reconstruct,
)
