"""Escape untrusted names for a Markdown page: arms, classes, files and messages."""

import re

from ssl_transfer.engine.printable import printable


def escaped(text: object) -> str:
    """Escape text for any place, also a table cell: no tag, emphasis, link, new line or control character."""
    plain = printable(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore inside a word is no emphasis, and names of backbones are full of them.
    marked = re.sub(r"([\\`*|~]|(?<!\w)_|_(?!\w)|\](?=\())", r"\\\1", plain)
    return " ".join(marked.split())


def code(text: object) -> str:
    """Format text as inline code, on one line, with control characters escaped."""
    plain = " ".join(printable(str(text)).split("\n"))
    runs = re.findall("`+", plain)
    if not runs:
        return f"`{plain}`"
    # A run of backticks that it does not hold ends it.
    fence = "`" * (max(map(len, runs)) + 1)
    return f"{fence} {plain} {fence}"
