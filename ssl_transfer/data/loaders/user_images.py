"""Read the images that a command names, one by one, with the layout of a data set.

Images are neither cached nor split. A million images take the memory of their names and of a few batches.
"""

import csv
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ssl_transfer.data import sources
from ssl_transfer.data.loading_config import LoadingConfig
from ssl_transfer.data.sources.folder import image_names
from ssl_transfer.data.sources.table import PATH_NAMES
from ssl_transfer.data.store.decode import Layout, square
from ssl_transfer.data.store.image_files import Encoded, UnreadableError, header
from ssl_transfer.engine.console.formatting import counted
from ssl_transfer.engine.errors import InputError, did_you_mean
from ssl_transfer.engine.io.home_folder import expanded

TABLES = {".csv": "excel", ".tsv": "excel-tab"}
"""Dialect of Python's csv module, by the suffix of a table of paths."""


@dataclass(frozen=True)
class Given:
    """Name N images, and read them by position."""

    names: Sequence[str] | np.ndarray
    """(N,) strings."""
    item: Callable[[int], Encoded]
    """Returns the encoded image at a position, 0..N-1."""
    source: Path = Path()
    """File or folder that was named."""
    are_files: bool = True
    """`item` returns paths of files, where it can."""

    def files(self) -> Iterator[Path]:
        """Yield the files that are read."""
        yield self.source
        for index in range(len(self.names)) if self.are_files else ():
            if isinstance(item := self.item(index), Path):
                yield item


@dataclass(frozen=True)
class Read:
    """Hold one image, or the reason why it is unreadable."""

    name: str
    pixels: np.ndarray | None
    """(C, S, S) in the layout of the data set."""
    problem: str = ""


def given(text: str, *, column: str | None, image_size: int, loading: LoadingConfig) -> Given:
    """Find the images of a command-line argument: a DATA string, a folder, a table of paths, or one file.

    Args:
        text: `./digits` is a folder of this name, `digits` a DATA string.
        column: column of a table with absolute paths, or paths relative to its folder; None takes `path` or a similar
            name.
        image_size: pixels a side of the model's input, for data sets that are derived from others.
        loading: how a DATA string is read.

    Raises:
        InputError: no file, folder or source of this name, or no image in it.
    """
    path, kind = expanded(Path(text), flag="predict"), text.partition(":")[0]
    kinds = {form.partition(":")[0]: ":" in form for form in sources.SOURCES}
    if kind in kinds and kinds[kind] == (":" in text):
        return _of_data(text, kind, image_size, loading)
    if path.is_dir():
        names = image_names(path)
        if not names:
            raise InputError(f"{text}: no images in this folder ({', '.join(sorted(sources.SUFFIXES))}).")
        return Given([os.path.join(text, name) for name in names], lambda index: path / names[index], path)
    if not path.is_file():
        forms = ", ".join(sources.SOURCES)
        raise InputError(f"{text}: no such file or folder (looked from {Path.cwd()}), nor one of {forms}.")
    if path.suffix.lower() in TABLES:
        names = _paths_of(path, column)
        return Given(names, lambda index: path.parent / expanded(Path(names[index]), flag=text), path)
    return Given([text], lambda _: path, path)


def read_as(
    images: Sequence[Given], layout: Layout, *, to_grey: bool, batch_size: int, workers: int
) -> Generator[list[Read]]:
    """Read images in order, in batches, decoded ahead by threads.

    An image with another bit depth or other channels counts as unreadable. Only grey is repeated for colour.

    Args:
        images: groups of images, one after the other.
        layout: layout of the data set.
        to_grey: convert colours to grey if the layout is grey.
        batch_size: images of a batch; the last may have fewer.
        workers: threads.
    """
    waiting: deque[Future[Read]] = deque()
    batch: list[Read] = []

    def read(one: Given, index: int) -> Read:
        name = str(one.names[index])
        try:
            return Read(name, _pixels(one.item(index), layout, to_grey))
        except UnreadableError as error:
            return Read(name, None, str(error))
        except Exception as error:  # Libraries raise many types for a broken file; each is named to the user.
            return Read(name, None, f"{type(error).__name__}: {error}")

    with ThreadPoolExecutor(workers) as pool:
        try:
            for one in images:
                for index in range(len(one.names)):
                    waiting.append(pool.submit(read, one, index))
                    if len(waiting) > 2 * batch_size:
                        batch.append(waiting.popleft().result())
                        if len(batch) == batch_size:
                            yield batch
                            batch = []
            while waiting:
                batch.append(waiting.popleft().result())
                if len(batch) == batch_size or not waiting:
                    yield batch
                    batch = []
        finally:
            for future in waiting:
                future.cancel()


def _pixels(item: Encoded, layout: Layout, to_grey: bool) -> np.ndarray:
    if isinstance(item, Path) and not item.is_file():
        raise UnreadableError("there is no such file")
    found = header(item)
    if found.dtype != layout.dtype:
        raise UnreadableError(f"has {found.dtype} values; the images of the run have {layout.dtype}")
    # With 8 bits, Pillow converts between grey, RGB and RGBA; it would drop other bands.
    pictures = layout.dtype == "uint8" and found.channels in (1, 3)
    if pictures and layout.channels == 1 and found.channels == 3 and not to_grey:
        raise UnreadableError("has colours; the images of the run are grey (--to-grey lets them be lost)")
    if not (pictures and layout.channels in (1, 3, 4)) and found.channels != layout.channels:
        raise UnreadableError(f"has {counted(found.channels, 'channel')}; the images of the run have {layout.channels}")
    return square(item, layout)


def _of_data(text: str, kind: str, image_size: int, loading: LoadingConfig) -> Given:
    """Find the images of a DATA string. Images that are decoded in memory are arrays (H, W, C)."""
    source = Path(text.partition(":")[2]).expanduser()
    if kind in sources.LISTERS:
        listing = sources.LISTERS[kind](text.partition(":")[2], loading)
        return Given(listing.names, lambda index: listing.items[index], source)
    dataset = sources.load(text, image_size=image_size, config=loading)

    def item(index: int) -> np.ndarray:
        return dataset.pixels[torch.tensor([index])][0].permute(1, 2, 0).numpy()

    return Given(dataset.names, item, source, are_files=False)


def _paths_of(table: Path, column: str | None) -> list[str]:
    """Read the column of paths of a table."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, dialect=TABLES[table.suffix.lower()], strict=True)
            names = list(rows.fieldnames or ())
            wanted = column or next((name for name in PATH_NAMES if name in names), "")
            if wanted not in names:
                raise InputError(
                    f"{table}: no column {column or 'path'}; there are {', '.join(names) or 'none'}."
                    f"{did_you_mean(column or 'path', names)} --column NAME says which one holds the paths."
                )
            paths = [row[wanted] or "" for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a readable table in UTF-8 ({error}).") from error
    if not paths:
        raise InputError(f"{table}: no rows.")
    return paths
