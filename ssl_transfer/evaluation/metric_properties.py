"""Define the limits, direction and number format of each metric, by its name.

A task (`tasks/`) is to supply the metrics of its own targets; this table holds those of classification and of costs.
"""

import math
import sys
from dataclasses import dataclass

Limits = tuple[float, float]
"""Least and greatest possible value."""
SHARE: Limits = (0.0, 1.0)
"""Accuracies and all other parts of a whole."""
POSITIVE: Limits = (0.0, math.inf)
"""Losses, costs and counts."""
UNBOUNDED: Limits = (-math.inf, math.inf)
ROUNDING = 1e-9
"""A value may pass its limits by this much: sums of shares round."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that a run reports."""

    name: str
    """As in column `metric` of `results.csv`."""
    limits: Limits = UNBOUNDED
    higher_is_better: bool | None = None
    """None where neither direction is better, as of a learning rate."""
    form: str = "{:g}"
    """Format of a value with its unit."""
    difference_form: str = "{:+g}"
    """Format of a difference of two values, in `difference_unit`."""
    difference_unit: str = ""
    """Unit of differences; empty where it has none."""
    per_unit: float = 1.0
    """Value of one `difference_unit`: 0.01 where shares differ by points."""

    def score(self, value: float) -> float:
        """Return the value, or difference of two, negated where lower is better: a greater score is better."""
        if self.higher_is_better is None:
            raise TypeError(f"{self.name}: neither direction is better")
        return value if self.higher_is_better else -value

    def problem(self, value: object) -> str:
        """Return the constraint that a value violates; empty for a possible value.

        Every value is a finite number within the limits.
        """
        low, high = self.limits
        # An integer of any length compares with a float; `math.isfinite` would overflow.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
            return "must be a finite number"
        if low - ROUNDING <= value <= high + ROUNDING:
            return ""
        return f"must be {low:g} or more" if math.isinf(high) else f"must be within {low:g} and {high:g}"

    def text(self, value: float) -> str:
        """Format a value with its unit."""
        return self.form.format(value)

    def bare_difference(self, value: float) -> str:
        """Format a difference of two values with its sign, without its unit: `+4.7`."""
        return self.difference_form.format(value / self.per_unit)

    def difference(self, value: float) -> str:
        """Format a difference of two values with sign and unit: `+4.7 points`."""
        return " ".join(filter(None, (self.bare_difference(value), self.difference_unit)))


def _share(name: str, *, higher_is_better: bool = True) -> Metric:
    return Metric(
        name=name,
        limits=SHARE,
        higher_is_better=higher_is_better,
        form="{:.1%}",
        difference_form="{:+.1f}",
        difference_unit="points",
        per_unit=0.01,
    )


def _cost(name: str, form: str) -> Metric:
    return Metric(
        name=name,
        limits=POSITIVE,
        higher_is_better=False,
        form=form,
        difference_form=form.replace("{:", "{:+"),
    )


ACCURACY = _share("accuracy")
"""Primary metric of classification: verdict, label efficiency and break-even are about it."""
LOG_LOSS = _cost("log_loss", "{:.3f}")
_METRICS = (
    ACCURACY,
    LOG_LOSS,
    _cost("log_loss_scaled", "{:.3f}"),
    *(_share(name) for name in ("balanced_accuracy", "macro_f1", "top_5_accuracy", "knn_accuracy", "chosen_share")),
    *(_share(name, higher_is_better=False) for name in ("calibration_error", "calibration_error_scaled")),
    Metric(name="temperature", limits=POSITIVE, form="{:.3g}"),
    _cost("seconds", "{:,.1f} s"),
    _cost("transfer_seconds", "{:,.1f} s"),
    _cost("pretrain_seconds", "{:,.0f} s"),
    _cost("images_seen", "{:,.0f}"),
    _cost("peak_memory_mb", "{:,.0f} MB"),
    _cost("num_parameters", "{:,.0f}"),
    _cost("pretrain_joules", "{:,.0f} J"),
    _cost("transfer_joules", "{:,.0f} J"),
    Metric(name="num_trials", limits=POSITIVE, form="{:,.0f}"),
)
METRICS = {metric.name: metric for metric in _METRICS}


def metric_named(name: str) -> Metric:
    """Look up a metric; one that is not in the table is unbounded and has no direction."""
    return METRICS.get(name, Metric(name=name))
