"""Print tables without a terminal that sets their width."""

import pytest

from ssl_transfer.engine.console.formatting import drawn, table

COLUMNS = ("a heading of thirty characters", "and another one of such a length", "vit_tiny_patch16_224")


@pytest.fixture
def wide():
    made = table(*COLUMNS)
    made.add_row("one", "two", "three")
    return made


def test_a_table_in_a_pipe_is_as_wide_as_it_needs(wide, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = drawn(wide, "word " * 60).splitlines()
    assert all(column in lines[1] for column in COLUMNS)
    assert len(lines[1]) > 80
    assert len(lines) == 6


def test_the_width_that_is_asked_for_holds(wide, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, drawn(wide).splitlines())) <= 40
