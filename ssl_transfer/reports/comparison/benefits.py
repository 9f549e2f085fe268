"""Format the three benefits of transfer for the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_transfer.evaluation.comparison.label_budgets import budget_title


def benefit_lines(benefits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Format the rows of `transfer_benefits`, one line for each arm, backbone and budget.

    Returns:
        Lines of `arm`, `backbone`, `budget`, a text for each of `jumpstart`, `steps` and `asymptote`, and `notes` by
        benefit.
    """
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in benefits:
        key = row["arm"], row["backbone"], row["labels"]
        line = lines.setdefault(key, {"arm": key[0], "backbone": key[1], "budget": budget_title(key[2]), "notes": {}})
        if row["benefit"] == "steps_to_threshold":
            line["steps"] = _steps(row)
        else:
            line[row["benefit"]] = f"{100 * row['difference']:+.1f}{_interval(row, 100.0)}"
        line["notes"][row["benefit"]] = row["note"]
    return list(lines.values())


def _steps(row: Mapping[str, Any]) -> str:
    if not row["num_seeds"]:
        return "not reached"
    return f"{row['ours']:,.0f} instead of {row['theirs']:,.0f} ({row['difference']:+,.0f}{_interval(row, 1.0)})"


def _interval(row: Mapping[str, Any], factor: float) -> str:
    low, high = factor * row["difference_low"], factor * row["difference_high"]
    digits = 1 if factor > 1.0 else 0
    return "" if math.isinf(low) else f" [{low:+,.{digits}f}, {high:+,.{digits}f}]"
