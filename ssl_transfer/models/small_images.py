"""Images smaller than those that a backbone was made for."""

import torch
from timm.layers import Format

from .backbones import Backbone


def smaller_size(backbone: Backbone, share: float) -> int:
    """Pixels a side, about `share` of the backbone's size, of images that it takes as well; its size where it cannot.

    A plain vision transformer of timm is made to: for the smaller grid its position embedding is interpolated, nothing
    changes at its own size, and its weights and spec stay what they were. Other networks are tried on a black image.

    Args:
        backbone: changed in place where it is a plain vision transformer.
        share: above 0, at most 1.
    """
    full = backbone.spec.image_size
    if not backbone.is_vit:
        side = max(1, round(full * share))
        return side if _takes(backbone, side) else full
    model = backbone.model
    patch = max(model.patch_embed.patch_size)
    # What timm's `dynamic_img_size=True` sets when it builds the model.
    model.dynamic_img_size, model.patch_embed.strict_img_size = True, False
    model.patch_embed.flatten, model.patch_embed.output_fmt = False, Format.NHWC
    return max(1, round(full * share / patch)) * patch


def _takes(backbone: Backbone, side: int) -> bool:
    """Whether images of this size give features too; in evaluation mode, which moves no statistics."""
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        with torch.no_grad():
            images = torch.zeros(1, backbone.spec.in_chans, side, side, device=backbone.mean.device)
            return backbone(images).shape == (1, backbone.num_features)
    except (RuntimeError, AssertionError, ValueError):
        return False
    finally:
        for module, training in modes.items():
            module.training = training
