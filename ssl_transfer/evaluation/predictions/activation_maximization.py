"""Synthesise the image that maximises a class's score, by gradient ascent from grey.

Simonyan, Vedaldi and Zisserman 2014 (equation 1) maximise the score before the softmax, so that the other classes need
not fall. The score alone gives high-frequency noise. Against it stand the total variation of Mahendran and Vedaldi 2015
(section 3.2, beta = 1) and their jitter: every step shifts the image by a few pixels, so that no single pixel matters.
Here pixels are clamped to 0..1 after each step. The variation is a sum over places, so that its gradient at a pixel
does not depend on the size, and a mean over channels.

Shapes: K classes, C channels, S pixels a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_transfer.engine.console.progress import bar
from ssl_transfer.engine.randomness import normal, sample_keys, uniform

from .attacks import Scores

_RATE = 0.05
"""Adam's initial learning rate, in units of 0..1; it falls linearly to zero, so that the image converges."""
_NOISE = 0.01
"""Deviation of the initial grey: equal pixels would have equal gradients."""
_EPSILON = 1e-8
"""Added inside the root of the total variation, which has no gradient at zero."""


@dataclass(frozen=True, kw_only=True)
class IdealImages:
    """Optimised images of K classes with their scores."""

    images: Tensor
    """(K, C, S, S) in 0..1."""
    scores: Tensor
    """(K,) final score, before the softmax."""
    start_scores: Tensor
    """(K,) score of the initial grey."""
    probabilities: Tensor
    """(K,) probability of the class, after the softmax."""
    variation: Tensor
    """(K,) total variation."""


def ideal_images(
    scores: Scores,
    classes: Sequence[int],
    *,
    shape: tuple[int, int, int],
    device: torch.device,
    steps: int,
    variation_weight: float,
    seed: int,
) -> IdealImages:
    """Synthesise the ideal image of each of these classes.

    Args:
        scores: class scores of the model.
        classes: K positions among its classes; each has its own randomness.
        shape: (C, S, S).
        device: device of the model.
        steps: of Adam.
        variation_weight: penalty of a step of 1 between neighbouring pixels, in units of the score.
        seed: of the start and the jitter.
    """
    wanted = torch.tensor(classes, device=device)
    keys = sample_keys(seed, 0, wanted)
    pixels = shape[0] * shape[1] * shape[2]
    found = (0.5 + _NOISE * normal(keys, 0, pixels)).view(-1, *shape).clamp(0.0, 1.0)
    rows = torch.arange(len(wanted), device=device)
    start = _scores(scores, found)[rows, wanted]
    found.requires_grad_()
    optimizer = torch.optim.Adam([found], lr=_RATE)
    reach = shape[1] // 16 + 1
    with bar("ideal images", steps) as progress:
        for step in range(steps):
            shifts = (uniform(keys, step + 1, 2) * (2 * reach + 1)).long()
            reached = scores(_shifted(found, shifts, reach))[rows, wanted]
            loss = variation_weight * total_variation(found).sum() - reached.sum()
            (found.grad,) = torch.autograd.grad(loss, found)
            optimizer.param_groups[0]["lr"] = _RATE * (1.0 - step / steps)
            optimizer.step()
            with torch.no_grad():
                found.clamp_(0.0, 1.0)
            progress.update(step + 1, f"mean score {float(reached.detach().mean()):.2f}")
    images = found.detach()
    last = _scores(scores, images)
    return IdealImages(
        images=images.cpu(),
        scores=last[rows, wanted].cpu(),
        start_scores=start.cpu(),
        probabilities=last.softmax(dim=1)[rows, wanted].cpu(),
        variation=total_variation(images).cpu(),
    )


def _shifted(images: Tensor, shifts: Tensor, reach: int) -> Tensor:
    """Shift each of (K, C, S, S) by its own (K, 2), 0 to 2 `reach` pixels; the edge is repeated."""
    padded, side = F.pad(images, (reach,) * 4, mode="replicate"), images.shape[2]
    places = shifts.tolist()
    return torch.stack(
        [one[:, top : top + side, left : left + side] for one, (top, left) in zip(padded, places, strict=True)]
    )


def total_variation(images: Tensor) -> Tensor:
    """Sum the length of the step to the next pixels to the right and below: (B, C, S, S) -> (B,)."""
    # At the border the next pixel is the pixel itself.
    right = F.pad(images, (0, 1, 0, 0), mode="replicate").diff(dim=3)
    below = F.pad(images, (0, 0, 0, 1), mode="replicate").diff(dim=2)
    return (right.square() + below.square() + _EPSILON).sqrt().mean(dim=1).sum(dim=(1, 2))


@torch.no_grad()
def _scores(scores: Scores, images: Tensor) -> Tensor:
    return scores(images)
