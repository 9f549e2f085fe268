"""Label a DATA string for folder names."""

from pathlib import Path

from ssl_transfer.data.sources import table


def data_label(source: str) -> str:
    """Convert a DATA string to a part of a folder's name.

    A table's label includes its folder, as many tables are called labels.csv.
    """
    kind, _, rest = source.partition(":")
    path = Path(rest)
    folder = path.parent.name if kind == "folder" and path.suffix.lower() in table.SUFFIXES else ""
    return f"{folder}-{path.name}" if folder else path.name or kind
