"""Grad-CAM (Selvaraju et al. 2017, equations 1 and 2): which places of an image spoke for a class.

The maps of the last block with places, each weighted by the mean gradient of the class's score to it, summed, and only
what is positive. captum computes it; tokens of a transformer are brought into a map for that.

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
    """What spoke for a class."""

    block: str
    """Whose maps were weighted."""
    grid: tuple[int, int]
    """Places of these maps."""
    weights: Tensor
    """(B, S, S) in 0..1, enlarged to the image; the largest of each image is 1, and all are 0 where nothing spoke for
    the class."""


def is_installed() -> bool:
    """Whether there is a captum to compute it."""
    return importlib.util.find_spec("captum") is not None


def grad_cam(classifier: Classifier, blocks: Sequence[SpatialBlock], views: Tensor, classes: Tensor) -> GradCam:
    """What spoke for these classes in these views.

    Behind a class token the last block's patches have no part in the score any more; then it is the block before.

    Args:
        classifier: in evaluation mode, on the device of the views.
        blocks: of its backbone, in order of computation; the last one that has a part in the score is looked at.
        views: (B, C, S, S) in 0..1.
        classes: (B,) int64, in the order of the classifier's scores.

    Raises:
        InputError: captum is not installed; no block has a part in the scores.
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
