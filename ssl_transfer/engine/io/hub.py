"""Servers that weights and images are fetched from: one that is down or never answers costs seconds, not the run."""

import contextlib
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import huggingface_hub

ANSWER_SECONDS = 10.0
"""How long a hub may take to answer at all."""
SILENCE_SECONDS = 60.0
"""How long a download may bring nothing."""


def check_hub() -> None:
    """Raise OSError where Hugging Face's hub cannot be reached: its own client tries for minutes before it gives up."""
    try:
        with urllib.request.urlopen(huggingface_hub.constants.ENDPOINT, timeout=ANSWER_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        # A mirror may have no page of its own, and answers all the same.
        if error.code >= 500:
            raise


@contextlib.contextmanager
def no_endless_silence() -> Iterator[None]:
    """Within, a connection that brings nothing is given up, also by libraries that would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def has_login() -> bool:
    """Whether a token of the hub is found; it is not asked for anything."""
    from huggingface_hub import get_token

    return get_token() is not None
