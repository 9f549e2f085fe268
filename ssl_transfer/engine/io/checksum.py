"""Compute checksums of files, and of an object that is written as JSON: a changed digit is an error."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ssl_transfer.engine.config import fingerprint

_CHECKSUM = "checksum"


def content_checksum(content: bytes) -> str:
    """Hash the content of a file: SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def file_checksum(path: Path) -> str:
    """Hash the content of a file as `content_checksum` does, in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return the object as JSON gives it back, with its checksum."""
    plain = json.loads(json.dumps(content))
    return {**plain, _CHECKSUM: fingerprint(plain)}


def unsealed(content: dict[str, Any]) -> dict[str, Any]:
    """Verify and remove the checksum; an object of an older version has none.

    Raises:
        ValueError: the content differs from what was sealed.
    """
    plain = {name: value for name, value in content.items() if name != _CHECKSUM}
    if _CHECKSUM in content and content[_CHECKSUM] != fingerprint(plain):
        raise ValueError("it does not have its checksum")
    return plain
