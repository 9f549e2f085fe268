"""Hide credentials in every text that a run writes or prints."""

import functools
import os
import re
from collections.abc import Sequence
from typing import Any

HIDDEN = "***"
"""Replaces a credential."""
_NAMES = re.compile(r"(^|_)(TOKEN|API_KEY|ACCESS_KEY|SECRET|PASSWORD|PASSWD)$")
_SHORTEST = 8
"""Characters of the shortest credential; shorter values occur inside ordinary words."""
_SHAPES = (
    # User and password of a URL; the password may hold another @. The second pattern matches a URL that a library
    # normalised as a path, with one slash.
    (re.compile(r"(://)[^/\s?#\"'<>]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(https?:/)[^/\s?#\"'<>]+@"), rf"\1{HIDDEN}@"),
    # Tokens of Hugging Face, GitHub and GitLab have fixed prefixes.
    (re.compile(r"\b(?:hf_|gh[opsur]_|github_pat_|glpat-)[A-Za-z0-9_-]{16,}"), HIDDEN),
)


def redacted(text: str) -> str:
    """Replace every credential in a text by `***`.

    A credential is the value of an environment variable whose name ends in TOKEN, API_KEY, ACCESS_KEY, SECRET or
    PASSWORD (WANDB_API_KEY, HF_TOKEN, AWS_SECRET_ACCESS_KEY, ...), the user and password of a URL, and a token with a
    known prefix (hf_..., ghp_...).
    """
    return _without(_values(), text)


def redacted_all(content: Any) -> Any:
    """Redact every text in nested dicts, lists and tuples."""
    # The environment is searched once, not for each text.
    return _all_without(_values(), content)


def _all_without(values: Sequence[str], content: Any) -> Any:
    if isinstance(content, str):
        return _without(values, content)
    if isinstance(content, dict):
        return {key: _all_without(values, value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(_all_without(values, value) for value in content)
    return content


def _without(values: Sequence[str], text: str) -> str:
    for value in values:
        text = text.replace(value, HIDDEN)
    for shape, shown in _SHAPES:
        text = shape.sub(shown, text)
    return text


def _values() -> list[str]:
    """List the values of the secret variables, the longest first: one may begin with another."""
    # Names are decoded faster than names and values, and texts are redacted by the thousand.
    found = {value for name in os.environ if _is_secret(name) if len(value := os.environ.get(name, "")) >= _SHORTEST}
    return sorted(found, key=len, reverse=True)


@functools.lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _NAMES.search(name.upper()) is not None
