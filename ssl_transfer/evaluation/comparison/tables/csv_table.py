"""Parse a CSV table strictly: columns, whole cells, whole numbers, finite values within the limits of their metric.

Each check looks at whole columns at once, and searches for the line only where a column fails.
"""

import contextlib
import csv
import io
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_transfer.engine.errors import InputError
from ssl_transfer.evaluation.metric_properties import ROUNDING, Metric

_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NO_NUMBER = re.compile(r"[^0-9.eE+\-\n]")
_PLACES = ("labels", "seed", "phase", "split", "metric", "measure", "image", "class")
"""Columns that a message names, after the arm and its backbone."""
_CHUNK = 256
"""Lines that are parsed at a time: so few new lists start no garbage collection, which would visit every cell."""
_MOST_DIGITS = 18
"""Digits of a whole number that fits 64 bits."""


class CsvTable:
    """Hold the columns of a table as text.

    Args:
        path: of the file, for messages.
        content: of the file.
        columns: that the header must have.
        exact: refuse further columns.
        remedy: last sentence of each message.

    Raises:
        InputError: a byte-order mark, no UTF-8, no line end after the last line, other columns, or a line with missing
            or extra cells.
    """

    def __init__(self, path: Path, content: bytes, columns: Sequence[str], *, exact: bool, remedy: str) -> None:
        self.path, self._remedy = path, remedy
        self._text = self._decoded(content)
        reader = self._reader()
        try:
            header: list[str] = next(reader)
            if len(set(header)) < len(header) or (header != list(columns) if exact else set(columns) - set(header)):
                raise self._refusal(1, f"the columns are {','.join(header)}; they must be {','.join(columns)}")
            self.columns = self._columns(reader, header)
        except csv.Error as error:
            raise self._refusal(reader.line_num, f"not readable as CSV ({error})") from error
        self.num_lines = len(self.columns[header[0]])

    def _columns(self, reader: Any, header: Sequence[str]) -> dict[str, list[str]]:
        columns: dict[str, list[str]] = {name: [] for name in header}
        while chunk := list(itertools.islice(reader, _CHUNK)):
            if set(map(len, chunk)) != {len(header)}:
                place, line = next((place, line) for place, line in enumerate(chunk) if len(line) != len(header))
                number = self._number(len(columns[header[0]]) + place)
                problem = f"{len(line)} cells, but the header has {len(header)}"
                raise self._refusal(number, problem, dict(zip(header, line, strict=False)))
            for column, cells in zip(columns.values(), zip(*chunk, strict=True), strict=True):
                column.extend(cells)
        return columns

    def _decoded(self, content: bytes) -> str:
        if content.startswith(_BYTE_ORDER_MARKS):
            raise self._refusal(1, "the file begins with a byte-order mark, which a spreadsheet adds; none is allowed")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            number = content[: error.start].count(b"\n") + 1
            raise self._refusal(number, f"{error.object[error.start : error.end]!r} is no UTF-8") from error
        if not text.endswith("\n"):
            lines = [*csv.reader(io.StringIO(text, newline=""))] or [[]]
            cells = dict(zip(lines[0], lines[-1][:-1], strict=False))
            raise self._refusal(text.count("\n") + 1, "the table is cut off: its last line has no line end", cells)
        return text

    def records(self) -> list[dict[str, str]]:
        """Return the lines, each by column."""
        return [dict(zip(self.columns, cells, strict=True)) for cells in zip(*self.columns.values(), strict=True)]

    def _reader(self) -> Any:
        return csv.reader(io.StringIO(self._text, newline=""), strict=True)

    def _number(self, place: int) -> int:
        """Return the number of the first line of a record; a quoted cell may hold line ends."""
        reader = self._reader()
        for _ in range(place + 1):
            next(reader)
        return reader.line_num + 1

    def _refusal(self, number: int, problem: str, cells: Mapping[str, str] | None = None) -> InputError:
        cells = cells or {}
        where = " on ".join(cells[name] for name in ("arm", "backbone") if name in cells)
        where += "".join(f", {name} {cells[name]}" for name in _PLACES if name in cells)
        return InputError(f"{self.path}, line {number}: {f'({where}) ' if where else ''}{problem}. {self._remedy}")

    def refuse(self, place: int, problem: str) -> InputError:
        """Return an error for the record at this place, with its line number and its run."""
        return self._refusal(
            self._number(place), problem, {name: column[place] for name, column in self.columns.items()}
        )

    def _refuse_first(self, name: str, is_bad: Callable[[str], object], problem: str) -> InputError:
        """Return an error for the first bad cell of a column; the problem goes on after the cell."""
        place = next(place for place, cell in enumerate(self.columns[name]) if is_bad(cell))
        return self.refuse(place, f"{name} {self.columns[name][place]!r} {problem}")

    def check_filled(self, *names: str) -> None:
        """Refuse an empty cell in these columns."""
        for name in names:
            if "" in self._distinct(name):
                raise self._refuse_first(name, lambda cell: not cell, "must not be empty")

    def check_known(self, name: str, known: Sequence[str], source: str) -> None:
        """Refuse a cell that is not among the known values; `source` names these."""
        if self._distinct(name) - set(known):
            raise self._refuse_first(name, lambda cell: cell not in known, f"must be one of {source}")

    def check_unique(self, *names: str) -> None:
        """Refuse a second record with the same cells in these columns."""
        keys = list(zip(*(self.columns[name] for name in names), strict=True))
        if len(set(keys)) == len(keys):
            return
        first: dict[tuple[str, ...], int] = {}
        for place, key in enumerate(keys):
            if key in first:
                raise self.refuse(place, f"repeats line {self._number(first[key])}: {','.join(key)}")
            first[key] = place

    def check_whole(self, name: str) -> None:
        """Refuse a cell that is no whole number, 0 or more."""
        if not all(map(_is_whole, self._distinct(name))):
            raise self._refuse_first(name, lambda cell: not _is_whole(cell), "must be a whole number, 0 or more")

    def _distinct(self, name: str) -> set[str]:
        return set(self.columns[name])

    def numbers(
        self, name: str, metrics: Sequence[str], properties: Callable[[str], Metric], *, exempt: Collection[int] = ()
    ) -> list[float]:
        """Convert a column of finite numbers.

        Args:
            name: of the column.
            metrics: name of each number.
            properties: look up a metric by its name, for its limits.
            exempt: places whose cell is not looked at; their number is nan.
        """
        cells = self.columns[name]
        known = {metric: properties(metric) for metric in set(metrics)}
        if exempt:
            cells = ["nan" if place in exempt else cell for place, cell in enumerate(cells)]
        elif not _NO_NUMBER.search("\n".join(cells)):
            with contextlib.suppress(ValueError):
                values = list(map(float, cells))
                if _all_within(np.array(values), metrics, known):
                    return values
        for place, (cell, metric) in enumerate(zip(cells, metrics, strict=True)):
            if place in exempt:
                continue
            if problem := known[metric].problem(float(cell) if _NUMBER.fullmatch(cell) else cell):
                raise self.refuse(place, f"{name} {cell!r} {problem}")
        return list(map(float, cells))


def _all_within(values: np.ndarray, metrics: Sequence[str], known: Mapping[str, Metric]) -> bool:
    """Check that all values (N,) are finite and within the limits of their metrics."""
    places = {metric: place for place, metric in enumerate(known)}
    indices = np.fromiter(map(places.__getitem__, metrics), dtype=np.intp, count=len(metrics))
    lows, highs = np.array([one.limits for one in known.values()]).reshape(-1, 2).T
    inside = (lows[indices] - ROUNDING <= values) & (values <= highs[indices] + ROUNDING)
    return bool((inside & np.isfinite(values)).all())


def _is_whole(cell: str) -> bool:
    return cell.isascii() and cell.isdigit() and len(cell) <= _MOST_DIGITS
