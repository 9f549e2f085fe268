"""Format numbers and tables for the terminal."""

import os

from rich.console import Console, RenderableType
from rich.table import Table

_ENOUGH = 1000
"""Columns outside a terminal; no table is wider."""
_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def counted(count: int, one: str, many: str | None = None) -> str:
    """Write a number with its noun: `1 run`, `2 runs`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def file_size(count: int) -> str:
    """Write a number of bytes in B, kB, MB or GB."""
    unit, divisor = next((pair for pair in _UNITS if count >= pair[1]), ("B", 1))
    return f"{count / divisor:.{0 if count >= 10 * divisor or divisor == 1 else 1}f} {unit}"


def duration(seconds: float) -> str:
    """Write seconds as s, min or h."""
    if seconds < 90.0:
        return f"{seconds:.0f} s" if seconds >= 1.0 else "1 s"
    return f"{seconds / 60.0:.0f} min" if seconds < 5400.0 else f"{seconds / 3600.0:.1f} h"


def table(*columns: str) -> Table:
    """Return an empty table: words in the first column, numbers in the others."""
    made = Table()
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return made


def console() -> Console:
    """Return a console as wide as the terminal or COLUMNS; unlimited in a file or a pipe."""
    made = Console(highlight=False)
    if not (made.is_terminal or made.is_jupyter or "COLUMNS" in os.environ):
        made.width = _ENOUGH
    return made


def drawn(*parts: RenderableType) -> str:
    """Render tables and texts below each other with the colours and width of this terminal."""
    screen = console()
    with screen.capture() as captured:
        screen.print(*parts, sep="\n")
    return captured.get().rstrip("\n")
