"""Render the templates of the pages: HTML and control characters are escaped, and secrets are redacted."""

from pathlib import Path
from typing import Any

import jinja2

from ssl_transfer.engine.printable import printable
from ssl_transfer.engine.redaction import redacted

from . import markdown


def _shown(value: Any) -> Any:
    """Redact a value and escape its control characters. A macro's result has a type of its own: it is done already."""
    return printable(redacted(value)) if type(value) is str else value


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    # Names of classes and files come from outside: in HTML everything is escaped.
    autoescape=jinja2.select_autoescape(["html.jinja"], default=False),
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(escaped=markdown.escaped, code=markdown.code)
