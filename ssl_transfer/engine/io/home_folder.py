"""Expand `~` in paths, with a message where the user has no home folder."""

from pathlib import Path

from ssl_transfer.engine.errors import InputError


def expanded(path: Path, *, flag: str) -> Path:
    """Replace `~` by the user's home folder.

    Args:
        path: any path; one without `~` needs no home folder.
        flag: names the path in the message.

    Raises:
        InputError: HOME is not set and the user id has no entry, as in some containers; or there is no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{flag} {path}: there is no home folder for its ~ (HOME is not set, and the user id has no entry). "
            f"Set HOME, or give {flag} a path without ~."
        ) from error
