"""Name the file in the errors of the system."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the name of this file to an OSError of the `with` block that has none, as at a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def is_full(error: OSError) -> bool:
    """Check for a full disk or an exhausted quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
