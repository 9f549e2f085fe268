"""Split a backbone at a frozen boundary: features before it are computed once, layers after it are trained.

Both halves run the backbone's own modules, so there is one set of weights, and training the second half trains the
backbone. One tensor crosses the cut. Where several cross the boundary (inside a residual block the input is still
needed), the cut lies earlier, at the last point with only one. The frozen layers in between run again. A module whose
inside cannot be traced is not cut: the cut lies before it.
"""

import torch
from torch import Tensor

from ssl_transfer.models.layers.execution_order import holders
from ssl_transfer.models.layers.fx_graph import NotTraceableError, Step

from .backbones import Backbone
from .layers import fx_graph as graphs
from .trainable import OUTPUT


def cut(backbone: Backbone, boundary: str) -> tuple[Step, Step]:
    """Split a backbone at a boundary of `select`.

    Args:
        backbone: on its device; its modes and state are unchanged afterwards.
        boundary: a module's name within `backbone.model`, or OUTPUT.

    Returns:
        `before` and `after`, with `after(before(images))` equal to `backbone(images)` bit for bit in evaluation mode
        and for the same batch. Images are (B, C, S, S) in 0..1. One tensor with B as its first dimension crosses the
        cut; it may be stored, and its memory format may change, in between. Both use the modes of the backbone's
        modules at the call: keep the frozen ones in evaluation mode (`trainable.hold`), and run `before` without
        gradients.

    Raises:
        NotTraceableError: the backbone has no such point; the message has the reason. Run it whole instead.
    """
    if boundary == OUTPUT:
        return backbone, lambda features: features
    reasons = []
    # A module that holds the boundary starts no later: a cut before it is correct, if earlier.
    for name in (boundary, *reversed(holders(boundary)[1:])):
        try:
            return _cut(backbone, name)
        except NotTraceableError as error:
            reasons.append(error)
    raise reasons[0]


def _cut(backbone: Backbone, boundary: str) -> tuple[Step, Step]:
    model = backbone.model
    graph = graphs.trace_in_both_modes(model, boundary)
    position = graphs.first_call(graph, boundary)
    while len(graphs.crossing(graph, position)) != 1:
        position -= 1
    given = graphs.crossing(graph, position)[0]
    if given.op == "placeholder":
        raise NotTraceableError(f"before {boundary} there is no single tensor but the images themselves")
    first = graphs.runner(model, graphs.until(graph, [given]))
    second = graphs.runner(model, graphs.after(graph, position, given))

    def before(images: Tensor) -> Tensor:
        return first(backbone.normalize(images))

    def bare_after(features: Tensor) -> Tensor:
        return backbone.pool(second(features))

    layout, overwrites = _try(backbone, before, bare_after, boundary)

    def after(features: Tensor) -> Tensor:
        # The same memory format as in the whole backbone, or convolutions may sum in another order. A second half that
        # works in place gets a copy: the next epoch needs the features again.
        features = features.contiguous(memory_format=layout)
        return bare_after(features.clone() if overwrites else features)

    return before, after


def _try(backbone: Backbone, before: Step, after: Step, boundary: str) -> tuple[torch.memory_format, bool]:
    """Compare the halves with the whole on two images; return the cut's memory format, and True if overwritten."""
    spec = backbone.spec
    shape = (2, spec.in_chans, spec.image_size, spec.image_size)
    images = torch.linspace(0.0, 1.0, 2 * spec.in_chans * spec.image_size**2, device=backbone.mean.device).view(shape)
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        with torch.no_grad():
            expected = backbone(images)
            features = before(images)
            version = features._version
            # Read before the second half runs, which may overwrite the features.
            layout = _layout(features)
            found = after(features)
    finally:
        for module, training in modes.items():
            module.training = training
    if features.shape[0] != 2 or not torch.equal(found, expected):
        raise NotTraceableError(f"cut at {boundary}, it does not compute what it computes whole")
    return layout, features._version != version


def _layout(features: Tensor) -> torch.memory_format:
    is_last = features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format
