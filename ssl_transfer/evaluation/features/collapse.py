"""The collapse alarm: a representation that tells no image from another, found while the training goes on.

A loss can fall while the encoder becomes constant, so the loss alone never shows it. Four signs are watched (Chen and
He, "Exploring simple siamese representation learning", CVPR 2021, section 4.1, watch the first):

- the deviation of the outputs of a step, which the loss sees, is low (`methods.method.deviations`);
- so is that of the backbone's features, which may follow much later;
- the loss is that of equal representations, where a method has such a value (SimCLR: ln(2N - 1));
- the effective rank at an evaluation is nearly 1, or far below what it was in this run
  (`representation.effective_rank`).

A collapse that is only partial, with dull but different outputs, may raise none of them: watch kNN accuracy too.

A sign of single steps must be seen at three looks on end, as a batch may be odd, and none counts early: the features of
a fresh vision transformer are nearly constant. The alarm is a warning and is raised once; the training goes on.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

EVERY = 50
"""Steps between two looks."""
LOOKS = 3
"""So many looks on end must show a sign of single steps."""
GRACE = 100
"""Steps behind the warm-up of the learning rate in which nothing counts."""
LEAST_DEVIATION = 0.03
LEAST_RANK = 1.3
"""Both by runs on the digits: a collapsed MAE (learning rate 0.1) lay at 0.005 to 0.024 and 1.1 to 1.2 with 36 % kNN
accuracy; the configs of recipes/ lie at 0.2 and 8 or more, and a MAE that recovered went down to 0.049 and 2.0."""
LEAST_OUTPUT_DEVIATION = 0.1
"""The outputs of those configs, over 36 epochs, lie at 0.79 or more, DINO's cosines in their first steps at 0.22. BYOL
without predictor and momentum falls below, with features still apart (tests/unit/evaluation/features/test_collapse.py).
"""
LEAST_RANK_SHARE = 0.25
"""Of the run's best effective rank: those configs stay above 0.6 of it."""
LOSS_TOLERANCE = 0.002
"""Share of the loss of equal representations by which a collapsed one may differ from it."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A value that is out of its healthy range when a representation has collapsed."""

    name: str
    """Of the metric."""
    collapsed: Callable[[float, float], bool]
    """Of a value and the largest one of this run."""
    healthy: str
    """What it should be, for the message."""
    looks: int = LOOKS
    """How many values on end must be out of range."""


def signs_of(equal_loss: float | None) -> tuple[Sign, ...]:
    """The signs, with the loss for a method that has a loss of equal representations."""
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
    """An `engine.monitor.Monitor` that raises the alarm.

    Args:
        method: its name, for the message.
        warmup_steps: of the learning rate.
        equal_loss: the loss when all representations are equal; None where a method has no such value.
        advice: what to try.
        warn: says the message loudly.
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
        """The step and the values at which the alarm was raised; empty while it was not."""

    def look(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """Count the signs in the values of a step or of an evaluation; a row for the log when that is enough."""
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
        """What was counted, and whether the alarm was raised."""
        return {"counts": dict(self._counts), "best": dict(self._best), "collapsed": dict(self.collapsed)}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from there."""
        self._counts, self._best = dict(state["counts"]), dict(state["best"])
        self.collapsed = dict(state["collapsed"])
