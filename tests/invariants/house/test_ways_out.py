"""Text leaves the package through a few places, each of which escapes control characters."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import ssl_transfer

PACKAGE = Path(ssl_transfer.__file__).parent
PATHS = sorted(PACKAGE.rglob("*.py"))
TERMINAL = {
    # `say` escapes each line.
    "engine/terminal.py": {"print": 1, "sys.stdout": 1, "sys.stderr": 1},
    # The console escapes what rich renders, and `words` each text.
    "engine/console/formatting.py": {"Text": 1},
    # `bar` escapes its description. The status holds numbers of ours.
    "engine/console/progress.py": {"Console": 1, "Progress": 1, "Text": 1, "sys.stdout": 1},
    # The stream is flushed and closed, not written to.
    "engine/console/streams.py": {"sys.stdout": 2},
    # Pages of `--help` and scripts of completion are texts of ours.
    "cli/help_cache.py": {"sys.stdout": 6},
    "cli/main.py": {"sys.stdout": 1},
}
"""Uses of what writes to a terminal, by file."""
PAGES = {"reports/rendering.py": {"jinja2.Environment": 1}}
TABLES = {
    "evaluation/comparison/write_tables.py": {"csv.writer": 1, "csv.DictWriter": 1},
    # Paths join with the user's files, so that they are kept; texts of errors are defused.
    "stages/predict/predict.py": {"csv.writer": 1},
}
CALLED = {"print", "pprint", "Console", "Text", "Progress", "tqdm", "echo", "getLogger"}
NAMED = {
    *("sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__", "rich.print", "warnings.warn"),
    *("logging.info", "logging.warning", "logging.error", "tqdm.write", "os.write"),
}


def dotted(node: ast.expr) -> str:
    """Return the dotted name of an expression; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def uses(path: Path, called: set[str], named: set[str]) -> Iterator[str]:
    """Yield the calls of `called`, by last name, and the uses of `named`, by dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in called:
            yield node.func.id
        if isinstance(node, ast.Attribute) and dotted(node) in named:
            yield dotted(node)


@pytest.mark.parametrize(
    ("called", "named", "known"),
    [
        (CALLED, NAMED, TERMINAL),
        (set(), {"jinja2.Environment", "jinja2.Template"}, PAGES),
        (set(), {"csv.writer", "csv.DictWriter"}, TABLES),
    ],
    ids=["terminal", "pages", "tables"],
)
def test_ways_out_are_known(called: set[str], named: set[str], known: dict[str, dict[str, int]]) -> None:
    found = {str(path.relative_to(PACKAGE)): Counter(uses(path, called, named)) for path in PATHS}
    assert {file: dict(counts) for file, counts in found.items() if counts} == known


def test_every_file_is_searched() -> None:
    assert len(PATHS) > 250
