"""Limit the time spent on download servers that are down or do not answer."""

import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import huggingface_hub

ANSWER_SECONDS = 10.0
"""Seconds until a hub must answer."""
SILENCE_SECONDS = 60.0
"""Seconds that a download may pause."""


def check_hub() -> None:
    """Raise OSError if Hugging Face's hub cannot be reached; its own client retries for minutes."""
    try:
        with urllib.request.urlopen(huggingface_hub.constants.ENDPOINT, timeout=ANSWER_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        # A mirror without a start page answers all the same.
        if error.code >= 500:
            raise


@contextlib.contextmanager
def no_endless_silence() -> Iterator[None]:
    """Time out silent connections of the `with` block, also those of libraries without a timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def has_login() -> bool:
    """Check for a token of the hub, without a connection."""
    from huggingface_hub import get_token

    return get_token() is not None
