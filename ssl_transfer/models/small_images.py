"""Find an image size below the backbone's own that it accepts."""

import torch
from timm.layers import Format

from .backbones import Backbone


def smaller_size(backbone: Backbone, share: float) -> int:
    """Return an image size of about `share` of the backbone's that it accepts, or its own size.

    A plain vision transformer of timm is changed to interpolate its position embedding for smaller grids. Its outputs
    at its own size, its weights and its spec stay. Other networks are tried with a black image.

    Args:
        backbone: changed in place where it is a plain vision transformer.
        share: share of the side, above 0, at most 1.

    Returns:
        Pixels a side.
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
    """Return True where images of this size give features, in evaluation mode, which changes no statistics."""
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
