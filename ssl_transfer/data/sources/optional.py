"""Check for libraries that only some sources need."""

import importlib.util

from ssl_transfer.engine.errors import InputError


def need(library: str, *, extra: str, source: str) -> None:
    """Raise InputError, with the extra to install, where a library is missing."""
    if importlib.util.find_spec(library) is None:
        raise InputError(f'--data {source}: needs {library}. Install it with: pip install "ssl_transfer[{extra}]"')
