"""Write the page of `explain`: sections with sentences, figures and tables, in one file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ssl_transfer.engine.io.atomic import write_text
from ssl_transfer.reports.rendering import TEMPLATES


@dataclass(frozen=True, kw_only=True)
class Section:
    """Section of the page: one explanation."""

    title: str
    sentences: tuple[str, ...]
    pictures: tuple[tuple[str, bytes], ...] = ()
    """Title and PNG of each figure."""
    headings: tuple[str, ...] = ()
    lines: tuple[tuple[str, ...], ...] = field(default=())
    """Rows of a table under these headings."""


def write(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page whole or not at all."""
    shown = [
        (section, [(alt, base64.b64encode(picture).decode()) for alt, picture in section.pictures])
        for section in sections
    ]
    write_text(path, TEMPLATES.get_template("explain.html.jinja").render(title=title, sections=shown))
