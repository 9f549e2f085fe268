r"""Render control characters as visible escapes: `\x1b`, `\u202e`.

A name from outside (a file, a class, a flag) may hold codes that a terminal obeys: ESC ]52 writes the clipboard,
ESC [2J clears the screen, U+202E reverses the reading order. Only what is shown is escaped. Stored names, look-ups and
tables for programs keep the raw value.
"""

import re

_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""C0 without tab and newline, DEL, C1, separators of lines and paragraphs, bidirectional controls, lone surrogates."""
_CONTROL = re.compile(f"[{_CONTROLS}]")
_CONTROL_OR_BREAK = re.compile(f"[\t\n{_CONTROLS}]")


class Drawn(str):
    """Mark text whose values are escaped already; the control characters that are left are codes of ours."""

    __slots__ = ()


def printable(text: str) -> str:
    """Escape control characters in a text of several lines; newline and tab stay."""
    return _CONTROL.sub(_escape, text)


def one_line(value: object) -> str:
    """Escape control characters in a value or a single line, newline and tab too."""
    return _CONTROL_OR_BREAK.sub(_escape, str(value))


def json_escaped(text: str) -> str:
    r"""Escape control characters of a JSON document as `\uXXXX`, which a reader turns back into the same text."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]
