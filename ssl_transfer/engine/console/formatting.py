"""Numbers and tables as people read them."""

import os

from rich.console import Console, RenderableType
from rich.table import Table

_ENOUGH = 1000
"""Columns where nobody's screen sets them: no table is wider."""
_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def file_size(count: int) -> str:
    """A number of bytes in the unit that suits it."""
    unit, divisor = next((pair for pair in _UNITS if count >= pair[1]), ("B", 1))
    return f"{count / divisor:.{0 if count >= 10 * divisor or divisor == 1 else 1}f} {unit}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 90.0:
        return f"{seconds:.0f} s" if seconds >= 1.0 else "1 s"
    return f"{seconds / 60.0:.0f} min" if seconds < 5400.0 else f"{seconds / 3600.0:.1f} h"


def table(*columns: str) -> Table:
    """An empty table of words in the first column and numbers in the others."""
    made = Table()
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return made


def console() -> Console:
    """Where tables are printed: as wide as the terminal or COLUMNS; into a file or a pipe as wide as they need."""
    made = Console(highlight=False)
    if not (made.is_terminal or made.is_jupyter or "COLUMNS" in os.environ):
        made.width = _ENOUGH
    return made


def drawn(*parts: RenderableType) -> str:
    """Tables and texts below each other, as this terminal shows them: colours where it has them, its width."""
    screen = console()
    with screen.capture() as captured:
        screen.print(*parts, sep="\n")
    return captured.get().rstrip("\n")
