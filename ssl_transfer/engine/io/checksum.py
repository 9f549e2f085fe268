"""A checksum inside an object that is written as JSON, for what would go wrong unseen if a digit of it changed."""

import json
from typing import Any

from ssl_transfer.engine.config import fingerprint

_CHECKSUM = "checksum"


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """The object as JSON gives it back, with a checksum of it."""
    plain = json.loads(json.dumps(content))
    return {**plain, _CHECKSUM: fingerprint(plain)}


def unsealed(content: dict[str, Any]) -> dict[str, Any]:
    """The object without its checksum; one of an older version, which has none, as it is.

    Raises:
        ValueError: it is not what was sealed.
    """
    plain = {name: value for name, value in content.items() if name != _CHECKSUM}
    if _CHECKSUM in content and content[_CHECKSUM] != fingerprint(plain):
        raise ValueError("it does not have its checksum")
    return plain
