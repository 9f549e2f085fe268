"""Credentials, which no file and no message of a run may hold: where text is written, they are hidden first."""

import os
import re
from typing import Any

HIDDEN = "***"
"""What stands in the place of a credential."""
_NAMES = re.compile(r"(^|_)(TOKEN|API_KEY|ACCESS_KEY|SECRET|PASSWORD|PASSWD)$")
_SHORTEST = 8
"""A shorter value is no secret worth the name, and would be found in the middle of ordinary words."""
_SHAPES = (
    # The user and the password of a URL, in which the password may hold another @; also where a library that took it
    # for a path has left one slash.
    (re.compile(r"(://)[^/\s?#\"'<>]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(https?:/)[^/\s?#\"'<>]+@"), rf"\1{HIDDEN}@"),
    # Tokens that tell what they are: of Hugging Face, GitHub, GitLab.
    (re.compile(r"\b(?:hf_|gh[opsur]_|github_pat_|glpat-)[A-Za-z0-9_-]{16,}"), HIDDEN),
)


def redacted(text: str) -> str:
    """The text with every credential in it as `***`.

    A credential is the value of an environment variable whose name ends in TOKEN, API_KEY, ACCESS_KEY, SECRET or
    PASSWORD (WANDB_API_KEY, HF_TOKEN, AWS_SECRET_ACCESS_KEY, ...), the user and password of a URL, and a token that
    can be told by its first letters (hf_..., ghp_...).
    """
    for value in _values():
        text = text.replace(value, HIDDEN)
    for shape, shown in _SHAPES:
        text = shape.sub(shown, text)
    return text


def redacted_all(content: Any) -> Any:
    """The same for every text in nested dicts, lists and tuples; everything else as it is."""
    if isinstance(content, str):
        return redacted(content)
    if isinstance(content, dict):
        return {key: redacted_all(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(redacted_all(value) for value in content)
    return content


def _values() -> list[str]:
    """Of the secret variables, the longest first: one may begin with another."""
    found = {value for name, value in os.environ.items() if _NAMES.search(name.upper()) and len(value) >= _SHORTEST}
    return sorted(found, key=len, reverse=True)
