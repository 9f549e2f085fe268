"""Render the templates of the pages: HTML and control characters are escaped, and secrets are redacted."""

from pathlib import Path
from typing import Any

import jinja2

from ssl_transfer.engine.printable import Drawn, one_line, printable
from ssl_transfer.engine.redaction import redacted

from . import markdown


def _shown(value: Any) -> Any:
    """Redact a value and show it on one line. `Drawn` text and the result of a macro are done already."""
    return one_line(redacted(value)) if type(value) is str else value


def _lines(text: str) -> Drawn:
    """Show a text of ours of several lines; the values in it are escaped where it is composed."""
    return Drawn(printable(redacted(text)))


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    # Names of classes and files come from outside: in HTML everything is escaped.
    autoescape=jinja2.select_autoescape(["html.jinja"], default=False),
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(escaped=markdown.escaped, code=markdown.code, lines=_lines)
