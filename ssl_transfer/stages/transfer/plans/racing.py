"""Set the races between plans: a plan that lies far behind a finished one ends early, by the same rule in every arm."""

import math
from collections.abc import Mapping
from typing import Any

from ssl_transfer.engine.training.early_stopping import Race, Watched

from .phase_tree import Phase

_ACCURACY = Watched(metric="accuracy", higher_is_better=True)
_FIRST = 0.3
"""Share of a phase's epochs before which no race ends."""
_STANDARD_ERRORS = 2.0


def race_for(phase: Phase, found: Mapping[str, Mapping[str, Any]], num_validation: int) -> Race | None:
    """Return the race of a phase against the best finished phase.

    It is lost two standard errors of a difference of two shares below the best validation accuracy.

    Args:
        phase: the last one of its plan.
        found: results of the finished phases; None is returned where there are none.
        num_validation: number of validation images.
    """
    if not found:
        return None
    best = max(one["validation"]["accuracy"] for one in found.values())
    # Of no or all images right the estimate of the error would be 0.
    share = min(max(best, 1.0 / num_validation), 1.0 - 1.0 / num_validation) if num_validation > 1 else 0.5
    error = math.sqrt(2.0 * share * (1.0 - share) / num_validation)
    return Race(
        watched=_ACCURACY,
        least=best - _STANDARD_ERRORS * error,
        from_epoch=max(1, math.ceil(_FIRST * phase.epochs)),
    )
