"""Read the tables of an earlier start, so that new ones never hold less without a word."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ssl_transfer.engine.errors import InputError
from ssl_transfer.evaluation.comparison.results import Cell, Results
from ssl_transfer.evaluation.comparison.tables.table_files import RESULTS_FILE


@dataclass(frozen=True, kw_only=True)
class EarlierTables:
    """Runs in the tables of an earlier start; none at the first."""

    runs: Set[tuple[object, ...]] = frozenset()
    """Arm, backbone, budget and seed of each run."""
    hits: Mapping[Cell, Mapping[int, np.ndarray]] = field(default_factory=dict)
    """Correct test images, by cell and seed."""
    is_damaged: bool = False
    """They cannot be read, and may hold any run."""


def read_earlier(output: Path) -> EarlierTables:
    """Read the tables in the folder of a comparison."""
    if not (output / RESULTS_FILE).exists():
        return EarlierTables()
    try:
        found = Results.read(output)
        runs = {(row.arm, row.backbone, row.labels, row.seed) for row in found.rows}
        return EarlierTables(runs=runs, hits=found.hits)
    except (InputError, OSError):
        return EarlierTables(is_damaged=True)
