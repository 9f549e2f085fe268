"""Every notebook runs from start to end: tiny here, as it is with `make notebooks`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BOOKS = sorted(path.stem for path in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
PATIENCE = 1200
"""Seconds after which a cell is taken to hang. A whole notebook takes less than 300 on two cores that are free."""
PICTURED = {"1_quick_start": 2, "2_own_images": 2, "3_reading_a_comparison": 1, "4_domain_shift": 2, "5_distilling": 1}
PICTURED |= {"6_what_it_sees": 6}
"""Least pictures that each shows."""


def pictures(book: dict) -> int:
    shown = [output.get("data", {}) for cell in book["cells"] for output in cell.get("outputs", [])]
    inside = sum(data.get("text/markdown", "").count("data:image/png;base64,") for data in shown)
    return inside + sum("image/png" in data for data in shown)


def test_all_are_known() -> None:
    assert list(PICTURED) == BOOKS


@pytest.mark.parametrize(
    # Of the two that train for minutes even so, the stages have tests of their own.
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name[0] in "45" else []) for name in BOOKS],
)
def test_it_runs_in_a_tiny_form(name: str, execute: Callable, tiny_kernel: Any) -> None:
    assert pictures(execute(name, timeout=PATIENCE, kernel=tiny_kernel)) >= PICTURED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", BOOKS)
def test_it_runs_as_it_is(name: str, execute: Callable) -> None:
    assert pictures(execute(name, timeout=PATIENCE)) >= PICTURED[name]


@pytest.mark.parametrize("name", BOOKS)
def test_it_is_committed_without_outputs(name: str) -> None:
    path = Path(__file__).parents[2] / "notebooks" / f"{name}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    # Text first: a notebook opens with what it is about.
    assert cells[0]["cell_type"] == "markdown"
