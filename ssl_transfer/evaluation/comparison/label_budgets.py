"""Format label budgets as headings and percentages."""


def percent_of(labels: str) -> str | None:
    """Format a share of each class (`0.1`) as a percentage (`10%`); None for labels per class and for `all`."""
    try:
        share = float(labels)
    except ValueError:
        return None
    return f"{100.0 * share:g}%" if 0.0 < share < 1.0 else None


def budget_title(labels: str, noun: str = "") -> str:
    """Format a budget as a heading: `5 a class`, `10% of each class`, `all labels`.

    With the noun `label`, in the singular, the first is `5 labels a class`.
    """
    if labels == "all":
        return "all labels"
    percent = percent_of(labels)
    if percent is not None:
        return f"{percent} of each class"
    return f"{labels} {noun}{'s' if noun and labels != '1' else ''}{' ' if noun else ''}a class"
