"""Compute Grad-CAM (Selvaraju et al. 2017, equations 1 and 2): the evidence for a class at each place of an image.

The maps of the last spatial block are weighted by the mean gradient of the class's score, summed, and clamped to
positive values. captum computes it; tokens of a transformer are reshaped to a map first.

Shapes: B images, C channels, S pixels a side.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_transfer.engine.errors import InputError
from ssl_transfer.models.classifier import Classifier

from .attacks import scores_of
from .spatial_maps import SpatialBlock, routed

NEEDS = 'grad-cam needs captum. Install it with: pip install "ssl_transfer[explain]"'


@dataclass(frozen=True, kw_only=True)
class GradCam:
    """Grad-CAM of a batch."""

    block: str
    """Block of the weighted maps."""
    grid: tuple[int, int]
    """Height and width of the maps."""
    weights: Tensor
    """(B, S, S) in 0..1, enlarged to the image. The largest weight of each image is 1; all are 0 without positive
    evidence."""


def is_installed() -> bool:
    """Test if captum is installed."""
    return importlib.util.find_spec("captum") is not None


def grad_cam(classifier: Classifier, blocks: Sequence[SpatialBlock], views: Tensor, classes: Tensor) -> GradCam:
    """Compute Grad-CAM of these classes in these views.

    With a class token, the last block's patches do not influence the score; then the block before is used.

    Args:
        classifier: in evaluation mode, on the device of the views.
        blocks: of its backbone, in order of computation; the last one that influences the score is used.
        views: (B, C, S, S) in 0..1.
        classes: (B,) int64, in the order of the classifier's scores.

    Raises:
        InputError: captum is not installed; no block influences the scores.
    """
    if not is_installed():
        raise InputError(f"--what {NEEDS}")
    from captum.attr import LayerGradCam

    for block in reversed(blocks):
        through = nn.Identity()
        with routed(block, through), torch.enable_grad():
            found = LayerGradCam(scores_of(classifier), through).attribute(views, classes)
        if not bool(found.any()):
            continue
        spoken = found.detach().relu()
        enlarged = F.interpolate(spoken, size=views.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        most = enlarged.amax(dim=(1, 2), keepdim=True)
        weights = enlarged / most.clamp_min(torch.finfo(most.dtype).tiny)
        return GradCam(block=block.name, grid=(found.shape[2], found.shape[3]), weights=weights.cpu())
    names = ", ".join(block.name for block in blocks) or "none"
    raise InputError(f"--what grad-cam: the scores do not depend on the places of any of these blocks: {names}.")
