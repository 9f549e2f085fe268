"""Format numbers and tables for the terminal."""

import os
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ssl_transfer.engine.printable import Drawn, one_line, printable
from ssl_transfer.engine.redaction import redacted

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


def words(*lines: object, style: str = "") -> Text:
    """Return lines of text for a table or a console: brackets are no markup, control characters are escaped."""
    return Text(redacted("\n".join(map(one_line, lines))), style=style)


class _EscapingConsole(Console):
    """Escape control characters of all text; rich adds its own codes after rendering."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def console() -> Console:
    """Return a console as wide as the terminal or COLUMNS; unlimited in a file or a pipe."""
    made = _EscapingConsole(highlight=False)
    if not (made.is_terminal or made.is_jupyter or "COLUMNS" in os.environ):
        made.width = _ENOUGH
    return made


def drawn(*parts: RenderableType) -> Drawn:
    """Render tables and lines of text below each other with the colours and width of this terminal."""
    screen = console()
    with screen.capture() as captured:
        screen.print(*(words(part) if isinstance(part, str) else part for part in parts), sep="\n")
    return Drawn(captured.get().rstrip("\n"))
