"""Raise an alarm when the representation collapses during training.

A loss can fall while the encoder becomes constant, so the loss alone never shows a collapse. Four signs are monitored
(the first as in Chen and He, "Exploring simple siamese representation learning", CVPR 2021, section 4.1):

- the deviation of the outputs of a step, which enter the loss, is low (`methods.base.deviations`);
- so is that of the backbone's features, which may follow much later;
- the loss is that of equal representations, where a method has such a value (SimCLR: ln(2N - 1));
- the effective rank at an evaluation is nearly 1, or far below its best in this run (`representation.effective_rank`).

A partial collapse, with similar but different outputs, may show none of them: monitor kNN accuracy too.

A sign of single steps must appear in three consecutive checks, as one batch may be an outlier. Early steps do not
count: the features of a fresh vision transformer are nearly constant. The alarm is a warning and is raised once; the
training continues.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

EVERY = 50
"""Steps between two checks."""
LOOKS = 3
"""Consecutive checks that must show a sign of single steps."""
GRACE = 100
"""Steps after the warm-up of the learning rate in which no sign counts."""
LEAST_DEVIATION = 0.03
LEAST_RANK = 1.3
"""Both limits are from runs on the digits. A collapsed MAE (learning rate 0.1) had deviations of 0.005 to 0.024 and
ranks of 1.1 to 1.2, with 36 % kNN accuracy. The configs of recipes/ have 0.2 and 8 or more. A MAE that recovered fell
to 0.049 and 2.0."""
LEAST_OUTPUT_DEVIATION = 0.1
"""The outputs of those configs, over 36 epochs, are at 0.79 or more, DINO's cosines in their first steps at 0.22. BYOL
without predictor and momentum falls below, with features still distinct
(tests/unit/evaluation/features/test_collapse.py)."""
LEAST_RANK_SHARE = 0.25
"""Share of the run's best effective rank; those configs stay above 0.6 of it."""
LOSS_TOLERANCE = 0.002
"""Relative tolerance around the loss of equal representations."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """Metric with a range that indicates collapse."""

    name: str
    """Name of the metric."""
    collapsed: Callable[[float, float], bool]
    """Test on a value and the largest one of this run."""
    healthy: str
    """Healthy range, for the message."""
    looks: int = LOOKS
    """Consecutive values that must be out of range."""


def signs_of(equal_loss: float | None) -> tuple[Sign, ...]:
    """Return the signs; a method with a loss of equal representations gets one more."""
    general = (
        Sign(
            name="output_deviation",
            collapsed=lambda value, _: value < LEAST_OUTPUT_DEVIATION,
            healthy=f"it should be well above {LEAST_OUTPUT_DEVIATION:g}",
        ),
        Sign(
            name="feature_deviation",
            collapsed=lambda value, _: value < LEAST_DEVIATION,
            healthy=f"it should be well above {LEAST_DEVIATION:g}",
        ),
        # Of many images at once, so once is enough.
        Sign(
            name="effective_rank",
            collapsed=lambda value, best: value < LEAST_RANK or value < LEAST_RANK_SHARE * best,
            healthy="1 is that of a constant; or it was far higher before",
            looks=1,
        ),
    )
    if equal_loss is None:
        return general
    stuck = Sign(
        name="loss",
        collapsed=lambda value, _: abs(value - equal_loss) < LOSS_TOLERANCE * equal_loss,
        healthy=f"{equal_loss:.4g} is that of equal representations",
    )
    return (*general, stuck)


class CollapseAlarm:
    """Monitor of a training that raises the alarm (`engine.training.training_settings.Monitor`).

    Args:
        method: its name, for the message.
        warmup_steps: of the learning rate.
        equal_loss: the loss when all representations are equal; None where a method has no such value.
        advice: settings to try.
        warn: prints the message.
    """

    every = EVERY

    def __init__(
        self, method: str, *, warmup_steps: int, equal_loss: float | None, advice: str, warn: Callable[[str], None]
    ) -> None:
        self._method, self._grace, self._signs = method, warmup_steps + GRACE, signs_of(equal_loss)
        self._advice, self._warn = advice, warn
        self._counts = {sign.name: 0 for sign in self._signs}
        self._best = {sign.name: -math.inf for sign in self._signs}
        self.collapsed: dict[str, float] = {}
        """Step and values of the alarm; empty before it."""

    def look(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Count the signs in the values of a step or of an evaluation; return a row for the log on an alarm."""
        if step <= self._grace or self.collapsed:
            return {}
        seen = [sign for sign in self._signs if sign.name in values]
        for sign in seen:
            value = values[sign.name]
            best = self._best[sign.name] = max(value, self._best[sign.name])
            self._counts[sign.name] = self._counts[sign.name] + 1 if sign.collapsed(value, best) else 0
        found = [sign for sign in seen if self._counts[sign.name] >= sign.looks]
        if not found:
            return {}
        measured = {sign.name: values[sign.name] for sign in seen}
        self.collapsed = {"step": step, **measured}
        reasons = " and ".join(f"{sign.name} is {values[sign.name]:.3g} ({sign.healthy})" for sign in found)
        self._warn(
            f"warning: {self._method}: the representation has collapsed at step {step}: {reasons}. The training goes "
            f"on, but what it leaves tells images hardly apart. Try {self._advice}."
        )
        return measured

    def state_dict(self) -> dict[str, Any]:
        """Return the counts and the alarm."""
        return {"counts": dict(self._counts), "best": dict(self._best), "collapsed": dict(self.collapsed)}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore the counts and the alarm."""
        self._counts, self._best = dict(state["counts"]), dict(state["best"])
        self.collapsed = dict(state["collapsed"])
